//! Whether to colour, and which words.
//!
//! Colour never carries what the text does not say.

use std::io::IsTerminal;

/// What a piece of text says beyond its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// There is nothing to see.
    Dim,
    /// A heading.
    Strong,
}

/// Where colours go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Colors {
    /// On standard output.
    pub(crate) stdout: bool,
    /// On standard error.
    pub(crate) stderr: bool,
}

impl Colors {
    /// Reads the environment: colours only on terminals that can show them, and only where nobody said no.
    pub(crate) fn detect(no_color_flag: bool) -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let wanted = decide_colors(no_color_flag, is_set("NO_COLOR"), dumb);
        Self {
            stdout: wanted && std::io::stdout().is_terminal(),
            stderr: wanted && std::io::stderr().is_terminal(),
        }
    }
}

/// NO_COLOR as no-color.org has it: set and not empty.
fn decide_colors(flag: bool, no_color: bool, dumb_terminal: bool) -> bool {
    !(flag || no_color || dumb_terminal)
}

/// The text in its colour, or as it is.
pub(crate) fn paint(text: &str, tone: Tone, color: bool) -> String {
    let code = match tone {
        _ if !color || text.is_empty() => return text.to_owned(),
        Tone::Plain => return text.to_owned(),
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
        Tone::Dim => "2",
        Tone::Strong => "1",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_no_is_enough() {
        assert!(decide_colors(false, false, false));
        for (flag, env, dumb) in [(true, false, false), (false, true, false), (false, false, true)] {
            assert!(!decide_colors(flag, env, dumb), "{flag} {env} {dumb}");
        }
    }

    #[test]
    fn text_without_colour_is_the_text() {
        assert_eq!(paint("ready", Tone::Good, false), "ready");
        assert_eq!(paint("ready", Tone::Good, true), "\u{1b}[32mready\u{1b}[0m");
        assert_eq!(paint("ready", Tone::Plain, true), "ready");
        assert_eq!(paint("", Tone::Bad, true), "");
    }
}
