//! `docs/errors.md` is the table of refusals for readers; it is rendered from the code that sends them.

use std::fmt::Write;

use codec::refusal::{Code, Who};

const HEAD: &str = "\
# Errors

One table for all doors. A refusal has the same number and name on each of them; the text beside it names field, limit
and value. Numbers are never given to another meaning; a client keeps a number that it does not know, and goes by its
hundred: 1xx the client must change something, 2xx the same request may succeed later, 3xx somebody must look after the
server.

*Who* can do something about it: **client**, the program that sent it; **later**, nobody, try again after a while;
**operator**, whoever runs the server. *HTTP* is the status that http doors answer with, *exit* the exit code of a
command that ends with it. The other exit codes are 0 done, 1 failed, 2 usage, 4 unreachable, 5 timed out, 6 damaged
data.

This file is rendered from `codec/src/refusal.rs`; `cargo test -p ringmesh-doors --test errors_document` compares them
and prints the table when they differ.

| number | name | who | HTTP | exit | meaning, and what to do |
|---|---|---|---|---|---|
";

fn render() -> String {
    let mut page = HEAD.to_owned();
    for code in Code::ALL {
        let who = match code.who() {
            Who::Client => "client",
            Who::Later => "later",
            Who::Operator => "operator",
        };
        let (number, name, meaning) = (code.number(), code.name(), code.meaning());
        let (http, exit) = (code.http_status(), code.exit_code());
        writeln!(page, "| {number} | `{name}` | {who} | {http} | {exit} | {meaning} |")
            .expect("writing to a string does not fail");
    }
    page
}

/// A document that drifts from the code sends its readers after errors that do not exist.
#[test]
fn document_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let expected = render();
    assert!(found == expected, "docs/errors.md differs from the table; it should be:\n{expected}");
}
