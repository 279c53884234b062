//! Prints the custom resource definitions of our kinds as one JSON object, by file name: `cargo xtask codegen` writes
//! them to `deploy/crds`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use poolward_store::kubernetes::crd;

fn main() -> ExitCode {
    let mut files = BTreeMap::new();
    for definition in crd::definitions() {
        match definition.to_yaml() {
            Ok(text) => drop(files.insert(definition.file_name, text)),
            Err(error) => {
                eprintln!("error: {}: {error}", definition.name);
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{}", serde_json::json!(files));
    ExitCode::SUCCESS
}
