//! `crds apply`: the definitions of our kinds, brought to an API server.

use serde::Serialize;

use super::Context;
use crate::cluster;
use crate::exit::{Exit, Failure};

/// What became of each definition.
#[derive(Debug, Serialize)]
struct Installed {
    results: Vec<Definition>,
}

#[derive(Debug, Serialize)]
struct Definition {
    name: String,
    outcome: &'static str,
}

/// Asks the API server; an agent has no part in this.
pub(crate) fn run(context: &Context) -> Result<Exit, Failure> {
    const OPERATION: &str = "apply definitions";
    let Some(access) = &context.cluster else {
        return Err(Failure::new(Exit::Usage, format!("{OPERATION}: no API server is named"))
            .with_next("say as whom and where with --kubeconfig or KUBECONFIG"));
    };
    let installed = cluster::install(&access.kubeconfig, context.timeout, OPERATION)?;
    let results = installed.into_iter().map(|(name, outcome)| Definition { name, outcome }).collect();
    let installed = Installed { results };
    context.output.show(&installed, |_| render(&installed))?;
    Ok(Exit::Ok)
}

fn render(installed: &Installed) -> String {
    installed
        .results
        .iter()
        .map(|definition| format!("{} {}\n", definition.name, definition.outcome))
        .collect()
}
