//! `ipam show`, `ipam check` and `ipam release`.
//!
//! Freeing never goes by an address alone: the holder is looked up, shown and sent, and the agent frees the
//! address only if that holder has it.

use std::io::{self, BufRead, IsTerminal, Write};
use std::net::IpAddr;

use rpc::{
    AddressUsage, IpamCheckReply, IpamReleaseReply, IpamReleaseRequest, IpamReply, IpamShowRequest, Reply,
    Request, Usage,
};

use super::{Context, unexpected};
use crate::cli::{IpamCommand, IpamReleaseArgs, IpamShowArgs};
use crate::exit::{Exit, Failure};
use crate::output::color::{Tone, paint};
use crate::output::table::{Align, Cell, Column, Table, count, facts, fullness};

/// Runs one command below `ipam`.
pub(crate) fn run(context: &Context, command: &IpamCommand) -> Result<Exit, Failure> {
    match command {
        IpamCommand::Show(args) => show(context, args),
        IpamCommand::Check => check(context),
        IpamCommand::Release(args) => release(context, args),
    }
}

fn ask(context: &Context, address: Option<IpAddr>) -> Result<IpamReply, Failure> {
    let operation = address.map_or_else(|| "show pools".to_owned(), |address| format!("look up {address}"));
    match context.ask(&operation, &Request::IpamShow(IpamShowRequest { address }))? {
        Reply::Ipam(reply) => Ok(reply),
        reply => Err(unexpected(&operation, &reply)),
    }
}

fn show(context: &Context, args: &IpamShowArgs) -> Result<Exit, Failure> {
    let reply = ask(context, args.ip)?;
    if let Some(address) = args.ip {
        let state = state_of(&reply, address)?;
        context.output.show(&reply, |color| render_address(state, color))?;
        return Ok(Exit::Ok);
    }
    if reply.pools.is_empty() && context.output.format == crate::cli::Format::Table {
        context.output.note("no pools\nnext: create one with `poolwardctl apply -f FILE`; `poolwardctl apply --help` shows a manifest");
        return Ok(Exit::Ok);
    }
    context
        .output
        .show(&reply, |color| render_usage(&reply, args.show_blocks, args.show_addresses, color))?;
    Ok(Exit::Ok)
}

fn check(context: &Context) -> Result<Exit, Failure> {
    let operation = "check addresses";
    let reply = match context.ask(operation, &Request::IpamCheck)? {
        Reply::IpamChecked(reply) => reply,
        reply => return Err(unexpected(operation, &reply)),
    };
    context.output.show(&reply, |color| render_check(&reply, color))?;
    Ok(if reply.violations.is_empty() { Exit::Ok } else { Exit::Failed })
}

fn render_check(reply: &IpamCheckReply, color: bool) -> String {
    let checked = format!(
        "{}, {} checked\n",
        count(usize::try_from(reply.blocks).unwrap_or(usize::MAX), "block", "blocks"),
        count(usize::try_from(reply.addresses).unwrap_or(usize::MAX), "address", "addresses")
    );
    if reply.violations.is_empty() {
        return format!("{}: {checked}", paint("no violation", Tone::Good, color));
    }
    let mut text = String::new();
    for violation in &reply.violations {
        text += &facts(
            &[
                ("Violation", Cell::toned(violation.kind.as_str(), Tone::Bad)),
                ("What", violation.message.as_str().into()),
                ("Rule", violation.rule.as_str().into()),
                ("Do", violation.remedy.as_str().into()),
            ],
            color,
        );
        text.push('\n');
    }
    let found = count(reply.violations.len(), "violation", "violations");
    text + &format!("{}: {checked}", paint(&found, Tone::Bad, color))
}

fn state_of(reply: &IpamReply, address: IpAddr) -> Result<&AddressUsage, Failure> {
    reply.addresses.iter().find(|usage| usage.address == address).ok_or_else(|| {
        Failure::new(Exit::Failed, format!("look up {address}: the agent's answer does not speak of it"))
    })
}

fn render_usage(reply: &IpamReply, blocks: bool, addresses: bool, color: bool) -> String {
    let mut sections = vec![render_pools(reply, color)];
    if blocks {
        sections.push(if reply.blocks.is_empty() {
            "no blocks: a node takes its first one when its first pod starts\n".to_owned()
        } else {
            render_blocks(reply, color)
        });
    }
    if addresses {
        sections.push(if reply.addresses.is_empty() {
            "no addresses in use on this node\n".to_owned()
        } else {
            render_holders(&reply.addresses, color)
        });
    }
    sections.join("\n")
}

const USAGE_COLUMNS: [Column; 6] = [
    ("SIZE", Align::Right),
    ("USED", Align::Right),
    ("FREE", Align::Right),
    ("COOLING", Align::Right),
    ("RESERVED", Align::Right),
    ("USE", Align::Right),
];

fn usage_cells(usage: &Usage) -> Vec<Cell> {
    let Usage { size, used, free, cooling, reserved } = *usage;
    let free_tone = if free == 0 && size > 0 { Tone::Bad } else { Tone::Plain };
    vec![
        size.to_string().into(),
        used.to_string().into(),
        Cell::toned(free.to_string(), free_tone),
        cooling.to_string().into(),
        reserved.to_string().into(),
        fullness(used, size),
    ]
}

fn render_pools(reply: &IpamReply, color: bool) -> String {
    let mut columns = vec![("POOL", Align::Left), ("CIDR", Align::Left)];
    columns.extend(USAGE_COLUMNS);
    columns.extend([("BLOCKS", Align::Right), ("STATE", Align::Left)]);
    let mut table = Table::new(&columns);
    for pool in &reply.pools {
        let mut row: Vec<Cell> = vec![pool.name.as_str().into(), pool.cidr.as_str().into()];
        row.extend(usage_cells(&pool.usage));
        row.push(pool.blocks.to_string().into());
        row.push(if pool.disabled {
            Cell::toned("disabled", Tone::Warn)
        } else {
            Cell::toned("active", Tone::Good)
        });
        table.row(row);
    }
    table.render(color)
}

fn render_blocks(reply: &IpamReply, color: bool) -> String {
    let mut columns = vec![("BLOCK", Align::Left), ("POOL", Align::Left), ("NODE", Align::Left)];
    columns.extend(USAGE_COLUMNS);
    let mut table = Table::new(&columns);
    for block in &reply.blocks {
        let mut row: Vec<Cell> =
            vec![block.cidr.as_str().into(), block.pool.as_str().into(), block.node.as_str().into()];
        row.extend(usage_cells(&block.usage));
        table.row(row);
    }
    table.render(color)
}

fn render_holders(addresses: &[AddressUsage], color: bool) -> String {
    let mut table = Table::new(&[
        ("ADDRESS", Align::Left),
        ("POD", Align::Left),
        ("POOL", Align::Left),
        ("BLOCK", Align::Left),
        ("HANDLE", Align::Left),
    ]);
    for usage in addresses {
        table.row(vec![
            usage.address.to_string().into(),
            usage.pod.as_str().into(),
            usage.pool.as_str().into(),
            usage.block.as_str().into(),
            usage.handle.as_str().into(),
        ]);
    }
    table.render(color)
}

/// What a state means, in a sentence.
fn explain(state: &str) -> &'static str {
    match state {
        "used" => "somebody holds it",
        "free" => "nobody holds it, and it can be handed out",
        "cooling" => "freed a short while ago, and not yet to be had",
        "reserved" => "kept back by a reservation, and held by nobody",
        "unclaimed" => "in a pool, but no node has a block there yet",
        "outside" => "in no pool",
        _ => "a state that this release does not know",
    }
}

fn render_address(usage: &AddressUsage, color: bool) -> String {
    let tone = match usage.state.as_str() {
        "used" => Tone::Good,
        "outside" => Tone::Warn,
        _ => Tone::Plain,
    };
    let mut lines = vec![
        ("Address", Cell::from(usage.address.to_string())),
        ("State", Cell::toned(format!("{} ({})", usage.state, explain(&usage.state)), tone)),
    ];
    let parts = [
        ("Pod", &usage.pod),
        ("Handle", &usage.handle),
        ("Pool", &usage.pool),
        ("Block", &usage.block),
        ("Node", &usage.node),
        ("Note", &usage.note),
    ];
    lines.extend(
        parts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key, text.as_str().into())),
    );
    facts(&lines, color)
}

/// What is to be freed, once it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Release {
    request: IpamReleaseRequest,
    /// What the holder has of what would be freed.
    held: Vec<AddressUsage>,
}

/// What a release comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    Release(Release),
    /// Nobody holds it: done already. For people, why.
    Nothing(String),
}

fn decide_by_address(reply: &IpamReply, address: IpAddr, force: bool) -> Result<Decision, Failure> {
    let usage = state_of(reply, address)?;
    match usage.state.as_str() {
        "used" if usage.handle.is_empty() => Err(Failure::new(
            Exit::Failed,
            format!("release {address}: it is in use, but this agent does not know by whom"),
        )
        .with_details(vec![format!("node: {}", usage.node)])
        .with_next("ask the agent of that node")),
        "used" => Ok(Decision::Release(Release {
            request: IpamReleaseRequest { handle: usage.handle.clone(), address: Some(address), force },
            held: vec![usage.clone()],
        })),
        "outside" => Err(Failure::new(Exit::NotFound, format!("release {address}: it is in no pool"))
            .with_next("`poolwardctl get pools` lists the pools")),
        state => {
            Ok(Decision::Nothing(format!("{address} is {state} ({}): nothing to release", explain(state))))
        }
    }
}

fn decide_by_handle(reply: &IpamReply, handle: &str, force: bool) -> Decision {
    let held: Vec<AddressUsage> =
        reply.addresses.iter().filter(|usage| usage.handle == handle).cloned().collect();
    if held.is_empty() {
        return Decision::Nothing(format!("{handle} holds no address on this node: nothing to release"));
    }
    let request = IpamReleaseRequest { handle: handle.to_owned(), address: None, force };
    Decision::Release(Release { request, held })
}

fn release(context: &Context, args: &IpamReleaseArgs) -> Result<Exit, Failure> {
    let decision = match (args.ip, args.handle.as_deref()) {
        (Some(address), _) => decide_by_address(&ask(context, Some(address))?, address, args.force)?,
        (None, Some(handle)) => {
            check_handle(handle)?;
            decide_by_handle(&ask(context, None)?, handle, args.force)
        }
        (None, None) => return Err(Failure::new(Exit::Usage, "release: --ip or --handle is needed")),
    };
    let Release { request, held } = match decision {
        Decision::Release(release) => release,
        Decision::Nothing(why) => {
            context.output.show(&IpamReleaseReply::default(), |_| format!("{why}\n"))?;
            return Ok(Exit::Ok);
        }
    };
    confirm(context, args, &held)?;
    let operation =
        format!("release {}", request.address.map_or_else(|| request.handle.clone(), |ip| ip.to_string()));
    let reply = match context.ask(&operation, &Request::IpamRelease(request))? {
        Reply::Released(reply) => reply,
        reply => return Err(unexpected(&operation, &reply)),
    };
    context.output.show(&reply, |_| render_released(&reply))?;
    Ok(Exit::Ok)
}

fn check_handle(handle: &str) -> Result<(), Failure> {
    let fail = |reason: String| {
        Failure::new(Exit::Usage, format!("release {handle}: {reason}"))
            .with_next("`poolwardctl ipam show --show-addresses` lists handles")
    };
    let (container_id, ifname) = handle
        .split_once('/')
        .ok_or_else(|| fail("not a handle: expected CONTAINER/INTERFACE".to_owned()))?;
    model::Handle::new(container_id, ifname).map(|_| ()).map_err(|error| fail(error.to_string()))
}

/// Shows the holder and asks; without a terminal, `--yes` must have been given.
fn confirm(context: &Context, args: &IpamReleaseArgs, held: &[AddressUsage]) -> Result<(), Failure> {
    let color = context.output.colors.stderr;
    let shown: Vec<String> = held.iter().map(|usage| render_address(usage, color)).collect();
    context.output.note(shown.join("\n").trim_end());
    if args.force {
        context
            .output
            .warn("--force frees it even if a pod still uses it; another pod may then get the same address");
    }
    if args.yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::new(
            Exit::Usage,
            "release: there is no terminal to ask on; nothing was released",
        )
        .with_next("add --yes if the holder shown above is gone"));
    }
    let question = format!("Release {}? [y/N] ", count(held.len(), "address", "addresses"));
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{}", paint(&question, Tone::Strong, color)).and_then(|()| stderr.flush());
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::new(Exit::Failed, format!("release: read the answer: {error}")))?;
    if is_yes(&answer) { Ok(()) } else { Err(Failure::new(Exit::Failed, "release: nothing was released")) }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

fn render_released(reply: &IpamReleaseReply) -> String {
    if reply.freed.is_empty() {
        return "nothing was held any more\n".to_owned();
    }
    reply.freed.iter().map(|address| format!("{address} released\n")).collect()
}

#[cfg(test)]
mod tests {
    use rpc::{BlockUsage, PoolUsage};

    use super::*;

    fn used(address: &str, handle: &str) -> AddressUsage {
        AddressUsage {
            address: address.parse().unwrap(),
            state: "used".into(),
            pool: "external-pool".into(),
            block: "192.0.2.0/29".into(),
            node: "n1".into(),
            handle: handle.into(),
            pod: "external-ns/web-1".into(),
            note: String::new(),
        }
    }

    fn in_state(state: &str) -> IpamReply {
        let address = AddressUsage { state: state.into(), handle: String::new(), ..used("192.0.2.1", "") };
        IpamReply { addresses: vec![address], ..IpamReply::default() }
    }

    fn reply() -> IpamReply {
        let usage = Usage { size: 64, used: 3, free: 58, cooling: 1, reserved: 2 };
        let full = Usage { size: 8, used: 8, ..Usage::default() };
        IpamReply {
            pools: vec![
                PoolUsage {
                    name: "external-pool".into(),
                    cidr: "192.0.2.0/26".into(),
                    usage,
                    blocks: 1,
                    disabled: false,
                },
                PoolUsage {
                    name: "b".into(),
                    cidr: "10.0.0.0/29".into(),
                    usage: full,
                    blocks: 1,
                    disabled: true,
                },
            ],
            blocks: vec![BlockUsage {
                cidr: "10.0.0.0/29".into(),
                pool: "b".into(),
                node: "n1".into(),
                usage: full,
            }],
            addresses: vec![
                used("192.0.2.0", "c0/eth0"),
                used("192.0.2.1", "c1/eth0"),
                used("fd00::1", "c1/eth0"),
            ],
        }
    }

    #[test]
    fn usage_is_shown_by_pool_and_on_request_by_block_and_address() {
        let pools = "\
POOL            CIDR           SIZE   USED   FREE   COOLING   RESERVED    USE   BLOCKS   STATE
external-pool   192.0.2.0/26     64      3     58         1          2     4%        1   active
b               10.0.0.0/29       8      8      0         0          0   100%        1   disabled
";
        let blocks = "
BLOCK         POOL   NODE   SIZE   USED   FREE   COOLING   RESERVED    USE
10.0.0.0/29   b      n1        8      8      0         0          0   100%
";
        let addresses = "
ADDRESS     POD                 POOL            BLOCK          HANDLE
192.0.2.0   external-ns/web-1   external-pool   192.0.2.0/29   c0/eth0
192.0.2.1   external-ns/web-1   external-pool   192.0.2.0/29   c1/eth0
fd00::1     external-ns/web-1   external-pool   192.0.2.0/29   c1/eth0
";
        assert_eq!(render_usage(&reply(), false, false, false), pools);
        assert_eq!(render_usage(&reply(), true, true, false), format!("{pools}{blocks}{addresses}"));
        let empty = IpamReply { pools: reply().pools, ..IpamReply::default() };
        let text = render_usage(&empty, true, true, false);
        assert!(text.contains("no blocks: ") && text.contains("no addresses in use"), "{text}");
    }

    #[test]
    fn violations_are_shown_with_what_to_do_about_them() {
        let clean = IpamCheckReply { blocks: 1, addresses: 2, violations: vec![] };
        assert_eq!(render_check(&clean, false), "no violation: 1 block, 2 addresses checked\n");
        let violation = rpc::IpamViolation {
            kind: "duplicate-holder".into(),
            message: "10.0.0.1 is held by a/eth0 on node n and by b/eth0 on node m".into(),
            rule: "an address has at most one holder".into(),
            remedy: "delete one of them".into(),
            at_rest: false,
        };
        let broken = IpamCheckReply { violations: vec![violation], ..clean };
        assert_eq!(
            render_check(&broken, false),
            "\
Violation:  duplicate-holder
What:       10.0.0.1 is held by a/eth0 on node n and by b/eth0 on node m
Rule:       an address has at most one holder
Do:         delete one of them

1 violation: 1 block, 2 addresses checked
"
        );
    }

    #[test]
    fn one_address_is_explained() {
        assert_eq!(
            render_address(&used("192.0.2.1", "c1/eth0"), false),
            "\
Address:  192.0.2.1
State:    used (somebody holds it)
Pod:      external-ns/web-1
Handle:   c1/eth0
Pool:     external-pool
Block:    192.0.2.0/29
Node:     n1
"
        );
        for state in ["free", "cooling", "reserved", "unclaimed", "outside"] {
            assert!(!explain(state).contains("does not know"), "{state}");
        }
    }

    #[test]
    fn a_release_by_address_carries_the_holder() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let Ok(Decision::Release(release)) = decide_by_address(&reply(), address, true) else { panic!() };
        assert_eq!(
            release.request,
            IpamReleaseRequest { handle: "c1/eth0".into(), address: Some(address), force: true }
        );
        assert_eq!(release.held, [used("192.0.2.1", "c1/eth0")]);
    }

    #[test]
    fn what_nobody_holds_is_not_released() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        for state in ["free", "cooling", "reserved", "unclaimed"] {
            let decision = decide_by_address(&in_state(state), address, false);
            assert!(matches!(decision, Ok(Decision::Nothing(_))), "{state}: {decision:?}");
        }
        for (state, exit) in [("outside", Exit::NotFound), ("used", Exit::Failed)] {
            assert_eq!(
                decide_by_address(&in_state(state), address, false).unwrap_err().exit,
                exit,
                "{state}"
            );
        }
        assert_eq!(decide_by_address(&IpamReply::default(), address, false).unwrap_err().exit, Exit::Failed);
    }

    #[test]
    fn a_release_by_handle_speaks_of_all_its_addresses() {
        let Decision::Release(release) = decide_by_handle(&reply(), "c1/eth0", false) else { panic!() };
        assert_eq!(
            release.request,
            IpamReleaseRequest { handle: "c1/eth0".into(), address: None, force: false }
        );
        assert_eq!(release.held.len(), 2);
        assert!(matches!(decide_by_handle(&reply(), "c9/eth0", false), Decision::Nothing(_)));
    }

    #[test]
    fn only_a_plain_yes_is_a_yes() {
        for (answer, expected) in
            [("y\n", true), ("YES\n", true), ("", false), ("\n", false), ("no\n", false), ("yep\n", false)]
        {
            assert_eq!(is_yes(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn a_handle_is_checked_before_anybody_is_asked() {
        assert!(check_handle("0f3c/eth0").is_ok());
        for bad in ["0f3c", "/eth0", "0f3c/", "../x/eth0", "0f3c/eth0 "] {
            assert_eq!(check_handle(bad).unwrap_err().exit, Exit::Usage, "{bad:?}");
        }
    }
}
