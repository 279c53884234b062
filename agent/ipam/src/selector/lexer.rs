//! From text to tokens, each with its column.

use super::SelectorError;

/// One token of a selector, borrowing from its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Text(&'a str),
    Open,
    Close,
    OpenSet,
    CloseSet,
    Comma,
    Equals,
    Differs,
    Not,
    And,
    Or,
    End,
}

impl Token<'_> {
    /// The token as an error message names it.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Word(text) | Self::Text(text) => format!("{text:?}"),
            Self::Open => "'('".to_owned(),
            Self::Close => "')'".to_owned(),
            Self::OpenSet => "'{'".to_owned(),
            Self::CloseSet => "'}'".to_owned(),
            Self::Comma => "','".to_owned(),
            Self::Equals => "'=='".to_owned(),
            Self::Differs => "'!='".to_owned(),
            Self::Not => "'!'".to_owned(),
            Self::And => "'&&'".to_owned(),
            Self::Or => "'||'".to_owned(),
            Self::End => "the end".to_owned(),
        }
    }
}

/// An error at a column.
pub(super) fn at(column: usize, problem: impl Into<String>) -> SelectorError {
    SelectorError::At { column, problem: problem.into() }
}

/// All tokens of a text with their columns, counted in characters from 1. The last one is always
/// [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token<'_>)>, SelectorError> {
    let mut lexer = Lexer { rest: text, column: 1 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks();
        let column = lexer.column;
        let token = lexer.next()?;
        tokens.push((column, token));
        if token == Token::End {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
    column: usize,
}

impl<'a> Lexer<'a> {
    fn skip_blanks(&mut self) {
        let blank = self.rest.len() - self.rest.trim_start().len();
        self.advance(blank);
    }

    /// Moves on by bytes, which must end on a character, and gives them back.
    fn advance(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        self.column += taken.chars().count();
        taken
    }

    fn next(&mut self) -> Result<Token<'a>, SelectorError> {
        let Some(first) = self.rest.chars().next() else { return Ok(Token::End) };
        let column = self.column;
        let token = match first {
            '(' => Token::Open,
            ')' => Token::Close,
            '{' => Token::OpenSet,
            '}' => Token::CloseSet,
            ',' => Token::Comma,
            '\'' | '"' => return self.quoted(first),
            '!' if self.rest.starts_with("!=") => Token::Differs,
            '!' => Token::Not,
            '=' | '&' | '|' => {
                let (double, token) = match first {
                    '=' => ("==", Token::Equals),
                    '&' => ("&&", Token::And),
                    _ => ("||", Token::Or),
                };
                if !self.rest.starts_with(double) {
                    return Err(at(column, format!("expected '{double}', found '{first}'")));
                }
                token
            }
            c if is_key_char(c) => {
                let end = self.rest.find(|c| !is_key_char(c)).unwrap_or(self.rest.len());
                return Ok(Token::Word(self.advance(end)));
            }
            other => return Err(at(column, format!("{other:?} cannot stand here"))),
        };
        let bytes =
            if matches!(token, Token::Equals | Token::Differs | Token::And | Token::Or) { 2 } else { 1 };
        self.advance(bytes);
        Ok(token)
    }

    fn quoted(&mut self, quote: char) -> Result<Token<'a>, SelectorError> {
        let inside = &self.rest[1..];
        let Some(len) = inside.find(quote) else {
            return Err(at(self.column, format!("this text has no closing {quote}")));
        };
        self.advance(len + 2);
        Ok(Token::Text(&inside[..len]))
    }
}

fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')
}
