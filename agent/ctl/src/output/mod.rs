//! Where text goes: standard output for what was asked, standard error for everything else.
//!
//! A reader that has seen enough (`| head`) is not an error: writing simply ends. What the text is, is
//! decided by the commands and by [`table`] and [`structured`].

pub(crate) mod color;
pub(crate) mod structured;
pub(crate) mod table;

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::Format;
use crate::exit::{Exit, Failure};
use color::{Colors, Tone, paint};

/// How this run shows things. One per process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// What `-o` asks for.
    pub(crate) format: Format,
    /// Where colours may be used.
    pub(crate) colors: Colors,
}

impl Output {
    /// Shows one answer: `render` makes the text for people (its argument says whether to colour), `value` is
    /// what programs get.
    pub(crate) fn show<T: Serialize>(
        &self,
        value: &T,
        render: impl FnOnce(bool) -> String,
    ) -> Result<(), Failure> {
        write_stdout(&match self.format {
            Format::Table => render(self.colors.stdout),
            Format::Json => structured::json(value)?,
            Format::Yaml => structured::yaml(value)?,
        })
    }

    /// A line for people that is no part of the answer.
    pub(crate) fn note(&self, text: &str) {
        write_stderr(text);
    }

    /// A warning for people.
    pub(crate) fn warn(&self, text: &str) {
        write_stderr(&format!("{} {text}", paint("warning:", Tone::Warn, self.colors.stderr)));
    }

    /// What went wrong: one line, details indented, then the next step.
    pub(crate) fn failure(&self, failure: &Failure) {
        write_stderr(&render_failure(failure, self.colors.stderr));
    }
}

fn render_failure(failure: &Failure, color: bool) -> String {
    let mut text = format!("{} {}", paint("error:", Tone::Bad, color), failure.message);
    for detail in &failure.details {
        for line in detail.lines() {
            text += &format!("\n  {line}");
        }
    }
    if let Some(next) = &failure.next {
        text += &format!("\n{} {next}", paint("next:", Tone::Strong, color));
    }
    text
}

/// Writes all of it, or stops where the reader stopped.
pub(crate) fn write_stdout(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    // Rust ignores SIGPIPE, so a closed pipe comes back as an error here.
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, format!("write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// There is nobody to tell when standard error is gone.
fn write_stderr(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_then_details_then_the_next_step() {
        let failure = Failure::new(Exit::Failed, "apply: nothing applied: 1 error")
            .with_details(vec!["a.yaml, document 1: spec.cidr\nis missing".into()])
            .with_next("correct it");
        assert_eq!(
            render_failure(&failure, false),
            "error: apply: nothing applied: 1 error\n  a.yaml, document 1: spec.cidr\n  is missing\nnext: correct it"
        );
    }
}
