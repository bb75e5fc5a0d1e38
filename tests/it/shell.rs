//! Completions and man pages, as shells and `man` take them, and the commands of `cheat`. No server runs here.

use std::path::Path;
use std::process::{Command, Stdio};

use clap::{CommandFactory, Parser};
use ringmesh::commands::args::Cli;
use ringmesh::commands::cheat;

use crate::folder;
use crate::harness::run;

/// Whether this machine has the program.
fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}

/// A script with a mistake in it spoils every new shell of whoever installed it.
#[test]
fn completions_are_taken_by_their_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).done().join("\n");
        for word in ["publish", "subscribe", "completions", "until-end"] {
            assert!(script.contains(word), "{word} in the completions of {shell}");
        }
        if !is_installed(shell) {
            continue;
        }
        let folder = folder::new();
        let path = folder.path().join(shell);
        std::fs::write(&path, script).unwrap();
        let output = Command::new(shell).arg("-n").arg(&path).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}");
    }
}

/// What bash offers after some words, as its own machinery asks the script for it.
fn offered(words: &[&str]) -> Vec<String> {
    let script = run(&["completions", "bash"]).done().join("\n");
    let last = words.len() - 1;
    let (words, current, before) = (words.join(" "), words[last], words[last - 1]);
    let ask = format!(
        "{script}\nCOMP_WORDS=({words} {quoted})\nCOMP_CWORD={last}\n_ringmesh ringmesh '{current}' {before}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted = if current.is_empty() { "''" } else { "" },
    );
    let output = Command::new("bash").args(["--norc", "-c", &ask]).output().expect("bash is there");
    let text = String::from_utf8(output.stdout).expect("words are text");
    text.lines().map(str::to_owned).collect()
}

/// A script that bash reads and that offers nothing looks as if it were not installed.
#[test]
fn bash_completes_commands_flags_and_values() {
    assert_eq!(offered(&["ringmesh", "comp"]), ["completions"]);
    assert_eq!(offered(&["ringmesh", "subscribe", "t", "--until"]), ["--until-end"]);
    assert_eq!(offered(&["ringmesh", "publish", "--output", ""]), ["text", "json"]);
}

/// A man page that lacks a flag denies it. Each command has a page, and its page every flag.
#[test]
fn man_pages_name_every_flag() {
    let folder = folder::new();
    let pages = folder.path().join("share/man1");
    run(&["man", pages.to_str().unwrap()]).done();
    let mut command = Cli::command();
    command.build();
    let expected = check_pages(&command, "ringmesh", &pages);
    assert_eq!(std::fs::read_dir(&pages).unwrap().count(), expected, "a page for each command");
}

/// Checks the page of a command and those of the commands below it. Returns how many they are.
fn check_pages(command: &clap::Command, name: &str, pages: &Path) -> usize {
    let path = pages.join(format!("{name}.1"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(text.lines().any(|line| line.starts_with(&format!(".TH {name} 1"))), "{text}");
    let plain = text.replace("\\-", "-");
    for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
        assert!(plain.contains(&format!("--{flag}")), "{name}.1 has --{flag}");
    }
    if is_installed("man") {
        let mut man = Command::new("man");
        man.args(["--warnings", "-l"]).arg(&path).env("MANWIDTH", "100").env("MANROFFOPT", "-ww");
        let output = man.stdin(Stdio::null()).output().expect("man runs");
        let (shown, said) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.is_empty(), "{name}.1: {said}");
        assert!(String::from_utf8_lossy(shown).contains("SYNOPSIS"), "{name}.1 is rendered");
    }
    let below = command.get_subcommands().filter(|command| command.get_name() != "help");
    1 + below
        .map(|command| check_pages(command, &format!("{name}-{}", command.get_name()), pages))
        .sum::<usize>()
}

/// The words that a shell hands to `ringmesh` of a line, pipe or not.
fn words_of(line: &str) -> Vec<String> {
    let script = format!("ringmesh() {{ printf '%s\\0' ringmesh \"$@\"; }}\n{line}");
    let output =
        Command::new("bash").args(["--norc", "-c", &script]).output().expect("bash is there");
    assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("words are text");
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// A command that is copied and refused is worse than none.
#[test]
fn every_command_of_cheat_is_one() {
    let mut count = 0;
    for line in cheat::commands() {
        let words = words_of(line);
        assert!(words.len() > 1, "{line}: {words:?}");
        if let Err(error) = Cli::try_parse_from(&words) {
            panic!("{line}: {error}");
        }
        count += 1;
    }
    assert!(count > 30, "{count} commands");
    let topics = run(&["cheat"]).done();
    for topic in &topics {
        let name = topic.split(' ').nth(2).expect("ringmesh cheat NAME");
        let page = run(&["cheat", name]).done();
        assert!(page[0].starts_with(&format!("# {name}: ")), "{page:?}");
        // 80 columns and a margin: pages are read beside a command.
        assert!(page.iter().all(|line| line.chars().count() <= 120), "{page:#?}");
    }
    let all = run(&["cheat", "all"]).done();
    assert!(cheat::commands().all(|command| all.iter().any(|line| line == command)));
    let unknown = run(&["cheat", "publsh"]).end();
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("did you mean publish?"), "{unknown:?}");
}
