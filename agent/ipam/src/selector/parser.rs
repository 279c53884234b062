//! From tokens to a tree, by recursive descent with bounded depth.

use std::collections::BTreeSet;

use super::lexer::{Token, at, tokens};
use super::{MAX_SELECTOR_DEPTH, Node, SelectorError};

/// Parses a whole selector.
pub(super) fn parse(text: &str) -> Result<Node, SelectorError> {
    let mut parser = Parser { tokens: tokens(text)?, position: 0, depth: 0 };
    if parser.peek() == Token::End {
        return Ok(Node::All);
    }
    let node = parser.or()?;
    match parser.peek() {
        Token::End => Ok(node),
        _ => Err(parser.expected("&&, || or the end")),
    }
}

struct Parser<'a> {
    tokens: Vec<(usize, Token<'a>)>,
    position: usize,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn current(&self) -> (usize, Token<'a>) {
        // The last token is `End`, which is never stepped over.
        self.tokens.get(self.position).copied().unwrap_or((1, Token::End))
    }

    fn peek(&self) -> Token<'a> {
        self.current().1
    }

    fn step(&mut self) {
        if self.peek() != Token::End {
            self.position += 1;
        }
    }

    fn take(&mut self, token: Token<'_>) -> bool {
        let found = self.peek() == token;
        if found {
            self.step();
        }
        found
    }

    fn expected(&self, what: &str) -> SelectorError {
        let (column, found) = self.current();
        at(column, format!("expected {what}, found {}", found.describe()))
    }

    fn require(&mut self, token: Token<'_>) -> Result<(), SelectorError> {
        if self.take(token) { Ok(()) } else { Err(self.expected(&token.describe())) }
    }

    fn or(&mut self) -> Result<Node, SelectorError> {
        self.chain(Token::Or, Self::and, Node::Or)
    }

    fn and(&mut self) -> Result<Node, SelectorError> {
        self.chain(Token::And, Self::unary, Node::And)
    }

    /// One or more parts joined by the same operator.
    fn chain(
        &mut self,
        operator: Token<'_>,
        part: fn(&mut Self) -> Result<Node, SelectorError>,
        join: fn(Vec<Node>) -> Node,
    ) -> Result<Node, SelectorError> {
        let first = part(self)?;
        if self.peek() != operator {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take(operator) {
            parts.push(part(self)?);
        }
        Ok(join(parts))
    }

    fn unary(&mut self) -> Result<Node, SelectorError> {
        let (column, token) = self.current();
        match token {
            Token::Not => {
                self.enter(column)?;
                let inner = self.unary()?;
                self.depth -= 1;
                Ok(Node::Not(Box::new(inner)))
            }
            Token::Open => {
                self.enter(column)?;
                let inner = self.or()?;
                self.require(Token::Close)?;
                self.depth -= 1;
                Ok(inner)
            }
            Token::Word(word) => {
                self.step();
                if self.peek() == Token::Open { self.function(column, word) } else { self.test(word) }
            }
            _ => Err(self.expected("a condition")),
        }
    }

    fn enter(&mut self, column: usize) -> Result<(), SelectorError> {
        if self.depth == MAX_SELECTOR_DEPTH {
            return Err(at(column, format!("nested deeper than {MAX_SELECTOR_DEPTH} levels")));
        }
        self.depth += 1;
        self.step();
        Ok(())
    }

    fn function(&mut self, column: usize, name: &str) -> Result<Node, SelectorError> {
        let node = match name {
            "all" => {
                self.step();
                Node::All
            }
            "has" => {
                self.step();
                let Token::Word(key) = self.peek() else { return Err(self.expected("a label's key")) };
                self.step();
                Node::Has(key.to_owned())
            }
            "global" => {
                let problem =
                    "global() selects objects outside namespaces, which pools never do: leave it out";
                return Err(at(column, problem));
            }
            _ => return Err(at(column, format!("{name:?} is no function: expected has(KEY) or all()"))),
        };
        self.require(Token::Close)?;
        Ok(node)
    }

    fn test(&mut self, key: &str) -> Result<Node, SelectorError> {
        const TESTS: &str = "==, !=, in, not in, contains, starts with or ends with";
        let key = key.to_owned();
        let (_, token) = self.current();
        match token {
            Token::Equals => self.stepped_text().map(|text| Node::Equals(key, text)),
            Token::Differs => self.stepped_text().map(|text| Node::Differs(key, text)),
            Token::Word("contains") => self.stepped_text().map(|text| Node::Contains(key, text)),
            Token::Word("in") => {
                self.step();
                Ok(Node::In(key, self.set()?))
            }
            Token::Word("not") => {
                self.second_word("not", "in")?;
                Ok(Node::NotIn(key, self.set()?))
            }
            Token::Word("starts") => {
                self.second_word("starts", "with")?;
                Ok(Node::StartsWith(key, self.text()?))
            }
            Token::Word("ends") => {
                self.second_word("ends", "with")?;
                Ok(Node::EndsWith(key, self.text()?))
            }
            _ => Err(self.expected(TESTS)),
        }
    }

    fn second_word(&mut self, first: &str, second: &str) -> Result<(), SelectorError> {
        self.step();
        if self.take(Token::Word(second)) {
            Ok(())
        } else {
            Err(self.expected(&format!("{second} after {first}")))
        }
    }

    fn stepped_text(&mut self) -> Result<String, SelectorError> {
        self.step();
        self.text()
    }

    fn text(&mut self) -> Result<String, SelectorError> {
        let Token::Text(text) = self.peek() else { return Err(self.expected("a quoted text")) };
        self.step();
        Ok(text.to_owned())
    }

    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        self.require(Token::OpenSet)?;
        let mut set = BTreeSet::new();
        if self.take(Token::CloseSet) {
            return Ok(set);
        }
        loop {
            set.insert(self.text()?);
            if self.take(Token::CloseSet) {
                return Ok(set);
            }
            if !self.take(Token::Comma) {
                return Err(self.expected("',' or '}'"));
            }
        }
    }
}
