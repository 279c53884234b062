//! The rules in our definitions (CEL), evaluated: they refuse what the agents refuse, and nothing else.
//!
//! The API server that other tests run against is older than such rules, and drops them; here an interpreter of the
//! language stands in for a newer one. What it leaves out is what a server estimates a rule to cost before it takes it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use cel::extractors::This;
use cel::{Context, Env, Program, Value as CelValue};
use poolward_store::kubernetes::crd;
use poolward_store::manifest::{parse_yaml, validate};
use serde_json::{Value, json};

/// What a rule says of an object that is created, or that replaces another.
struct Rule {
    text: String,
    env: Arc<Env>,
    program: Program,
}

impl Rule {
    fn of(text: &str) -> Self {
        let env = Arc::new(Env::stdlib());
        let program = env.compile(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        Self { text: text.to_owned(), env, program }
    }

    /// A server evaluates it only where there is an object of before.
    fn is_about_changes(&self) -> bool {
        self.text.contains("oldSelf")
    }

    fn accepts(&self, new: &Value, old: Option<&Value>) -> bool {
        let mut context = Context::with_env(self.env.clone());
        // Of Kubernetes' own extensions of the language, the one that is used (apiserver, cel/library/lists and strings).
        let split = |text: This<Arc<String>>, by: Arc<String>| {
            CelValue::from(text.0.split(by.as_str()).map(str::to_owned).collect::<Vec<String>>())
        };
        context.add_function("split", split).unwrap();
        context.add_variable("self", new).unwrap();
        if let Some(old) = old {
            context.add_variable("oldSelf", old).unwrap();
        }
        match self.program.execute(&context) {
            Ok(CelValue::Bool(accepted)) => accepted,
            other => panic!("{}: {other:?} for {new}", self.text),
        }
    }
}

/// The rules at a schema of a definition: at the object itself, or at its `spec`.
fn rules(definition: &str, place: &str) -> Vec<Rule> {
    let definition = crd::definitions().into_iter().find(|found| found.name == definition).unwrap();
    let schema = &definition.body["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let rules = schema.pointer(place).unwrap()["x-kubernetes-validations"].as_array().unwrap();
    rules.iter().map(|rule| Rule::of(rule["rule"].as_str().unwrap())).collect()
}

/// Every pool of these ranges, sizes and modes, with what a server would have filled in.
fn pools() -> Vec<Value> {
    let mut pools = Vec::new();
    for cidr in ["10.0.0.0/8", "10.0.0.0/20", "10.0.0.0/27", "10.0.0.9/32", "fd00::/64", "fd00::/120"] {
        for size in [
            None,
            Some(19),
            Some(20),
            Some(26),
            Some(27),
            Some(32),
            Some(33),
            Some(115),
            Some(116),
            Some(121),
            Some(128),
        ] {
            for mode in ["Never", "CrossSubnet", "Always"] {
                let mut pool = json!({"cidr": cidr, "ipipMode": mode});
                if let Some(size) = size {
                    pool["blockSize"] = json!(size);
                }
                pools.push(pool);
            }
        }
    }
    pools
}

#[test]
fn a_pool_is_refused_by_the_rules_exactly_if_it_is_by_the_agents() {
    let rules = rules("ippools.poolward.io", "/properties/spec");
    let (mut accepted_count, mut refused_count) = (0, 0);
    for pool in pools() {
        let by_rules =
            rules.iter().filter(|rule| !rule.is_about_changes()).all(|rule| rule.accepts(&pool, None));
        let manifest = json!({
            "apiVersion": "poolward.io/v1", "kind": "IPPool", "metadata": {"name": "a"}, "spec": pool,
        });
        let by_agents = validate(&parse_yaml("a.yaml", &manifest.to_string()).unwrap());
        assert_eq!(by_rules, by_agents.is_ok(), "{pool}: {:?}", by_agents.err());
        *(if by_rules { &mut accepted_count } else { &mut refused_count }) += 1;
    }
    assert!(accepted_count > 20 && refused_count > 20, "{accepted_count} accepted, {refused_count} refused");
}

#[test]
fn range_and_block_size_of_a_pool_stay_and_all_else_may_change() {
    let rules = rules("ippools.poolward.io", "/properties/spec");
    let changes: Vec<&Rule> = rules.iter().filter(|rule| rule.is_about_changes()).collect();
    assert_eq!(changes.len(), 2);
    let pools = pools();
    for old in &pools {
        for new in &pools {
            let accepted = changes.iter().all(|rule| rule.accepts(new, Some(old)));
            let stays = new["cidr"] == old["cidr"] && new.get("blockSize") == old.get("blockSize");
            assert_eq!(accepted, stays, "{old} -> {new}");
        }
    }
}

#[test]
fn what_there_is_one_of_has_one_name() {
    for definition in ["ipamconfigs.poolward.io", "ippoolregistries.poolward.io"] {
        let rules = rules(definition, "");
        let check = |name: &str, expected: bool| {
            let object = json!({"metadata": {"name": name}});
            assert_eq!(
                rules.iter().all(|rule| rule.accepts(&object, None)),
                expected,
                "{definition}: {name}"
            );
        };
        check("default", true);
        check("other", false);
    }
}

#[test]
fn no_rule_of_any_definition_is_left_out_here() {
    let count = |schema: &Value| -> usize {
        fn walk(schema: &Value) -> usize {
            let own = schema["x-kubernetes-validations"].as_array().map_or(0, Vec::len);
            let below = schema["properties"].as_object().into_iter().flatten().map(|(_, field)| walk(field));
            own + below.sum::<usize>() + schema.get("items").map_or(0, walk)
        }
        walk(schema)
    };
    let schema = |definition: &crd::Definition| {
        definition.body["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    };
    let all: usize = crd::definitions().iter().map(|definition| count(&schema(definition))).sum();
    let here = rules("ippools.poolward.io", "/properties/spec").len()
        + rules("ipamconfigs.poolward.io", "").len()
        + rules("ippoolregistries.poolward.io", "").len();
    assert_eq!(all, here);
}
