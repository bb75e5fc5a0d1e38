//! `ringmesh check`: one line and an exit code for monitoring systems, as the plug-ins of Nagios, Icinga, Zabbix and others
//! have them: 0 ok, 1 warning, 2 critical, 3 unknown; behind a bar the figures, each with its thresholds.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::admin::{AdminPort, encoded};
use super::args::{AdminArgs, time};
use super::failure::{Exit, Failure};
use crate::config::units::{SIZE_FORM, Size};

/// `check`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh check\n  \
    ringmesh check --disk-warn 50GiB --disk-crit 10GiB\n  \
    ringmesh check --subscription billing --lag-warn 1000 --lag-crit 100000 --age-crit 10m\n\n\
    Says whether a server is up and ready, how much of its disk is free, and how far subscriptions are behind.\n\
    Exit codes are those of monitoring plug-ins: 0 ok, 1 warning, 2 critical, 3 unknown.")]
pub struct CheckArgs {
    /// Subscription to look at; may be given several times
    #[arg(long = "subscription", value_name = "NAME")]
    pub subscriptions: Vec<String>,
    /// Warn from this many events behind
    #[arg(long, value_name = "EVENTS", requires = "subscriptions")]
    pub lag_warn: Option<u64>,
    /// Critical from this many events behind
    #[arg(long, value_name = "EVENTS", requires = "subscriptions")]
    pub lag_crit: Option<u64>,
    /// Warn when the oldest event that is not settled is as old as this
    #[arg(long, value_name = "TIME", value_parser = time, requires = "subscriptions")]
    pub age_warn: Option<Duration>,
    /// Critical when it is as old as this
    #[arg(long, value_name = "TIME", value_parser = time, requires = "subscriptions")]
    pub age_crit: Option<Duration>,
    /// Warn when less than this is free on the server's disk
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub disk_warn: Option<u64>,
    /// Critical when less than this is free
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub disk_crit: Option<u64>,
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// How it stands: the worst counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ok,
    Warning,
    Critical,
    Unknown,
}

/// What is found, piece by piece.
#[derive(Debug)]
struct Findings {
    verdict: Verdict,
    said: Vec<String>,
    figures: Vec<String>,
}

/// Runs the check; nothing of it is an error of the command.
#[must_use]
pub fn run(arguments: &CheckArgs) -> ExitCode {
    let mut findings = Findings { verdict: Verdict::Ok, said: Vec::new(), figures: Vec::new() };
    if let Err(failure) = look(arguments, &mut findings) {
        let verdict = match failure.exit {
            Exit::Unreachable | Exit::TimedOut => Verdict::Critical,
            _ => Verdict::Unknown,
        };
        findings.note(verdict, failure.message);
    }
    // Whoever reads it has gone: the code says it all the same.
    let _ = writeln!(std::io::stdout(), "{}", findings.line());
    ExitCode::from(findings.verdict as u8)
}

fn look(arguments: &CheckArgs, findings: &mut Findings) -> Result<(), Failure> {
    let port = AdminPort::new(&arguments.admin);
    let asked = Instant::now();
    let server = port.get("server")?;
    findings.figure("time", &format!("{:.6}s", asked.elapsed().as_secs_f64()), ["", ""]);
    let amiss: Vec<&str> =
        server["not_ready"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if amiss.is_empty() {
        findings.note(Verdict::Ok, "ready".to_owned());
    } else {
        findings.note(Verdict::Critical, format!("not ready: {}", amiss.join("; ")));
    }
    look_at_disk(arguments, &server, findings);
    for name in &arguments.subscriptions {
        match port.get(&format!("subscriptions/{}", encoded(name))) {
            Ok(subscription) => look_at_lag(arguments, name, &subscription, findings),
            Err(failure) if failure.exit == Exit::Refused => {
                findings.note(Verdict::Critical, format!("there is no subscription {name:?}"));
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

fn look_at_disk(arguments: &CheckArgs, server: &Value, findings: &mut Findings) {
    let Some(free) = server["disk_free_bytes"].as_u64() else {
        return findings.note(Verdict::Unknown, "the disk does not say what is free".to_owned());
    };
    let below = |limit: Option<u64>| limit.is_some_and(|limit| free < limit);
    let verdict = judged(below(arguments.disk_warn), below(arguments.disk_crit));
    findings.note(verdict, format!("{} MiB free", free >> 20));
    // A range with nothing behind its colon: what is below is amiss.
    let range = |limit: Option<u64>| limit.map_or_else(String::new, |limit| format!("{limit}:"));
    let ranges = [range(arguments.disk_warn), range(arguments.disk_crit)];
    findings.figure("disk_free", &format!("{free}B"), [&ranges[0], &ranges[1]]);
}

fn look_at_lag(arguments: &CheckArgs, name: &str, of: &Value, findings: &mut Findings) {
    let events = of["lag_events"].as_u64().unwrap_or(0);
    let age = of["lag_seconds"].as_f64().unwrap_or(0.0);
    let many = |limit: Option<u64>| limit.is_some_and(|limit| events >= limit);
    let old = |limit: Option<Duration>| limit.is_some_and(|limit| age >= limit.as_secs_f64());
    let warns = many(arguments.lag_warn) || old(arguments.age_warn);
    let verdict = judged(warns, many(arguments.lag_crit) || old(arguments.age_crit));
    findings.note(verdict, format!("{name} {events} events and {age:.1} s behind"));
    if of["paused"] == true {
        findings.note(Verdict::Warning, format!("{name} is paused"));
    }
    // A threshold is the first value that is amiss, a range the last that is well.
    let last = |limit: Option<u64>| {
        limit.map_or_else(String::new, |limit| limit.saturating_sub(1).to_string())
    };
    let lag = [last(arguments.lag_warn), last(arguments.lag_crit)];
    findings.figure(&format!("{name} lag"), &events.to_string(), [&lag[0], &lag[1]]);
    let seconds = |limit: Option<Duration>| {
        limit.map_or_else(String::new, |limit| limit.as_secs_f64().to_string())
    };
    let ages = [seconds(arguments.age_warn), seconds(arguments.age_crit)];
    findings.figure(&format!("{name} age"), &format!("{age:.3}s"), [&ages[0], &ages[1]]);
}

fn judged(warns: bool, is_critical: bool) -> Verdict {
    match (warns, is_critical) {
        (_, true) => Verdict::Critical,
        (true, false) => Verdict::Warning,
        (false, false) => Verdict::Ok,
    }
}

impl Findings {
    fn note(&mut self, verdict: Verdict, said: String) {
        self.verdict = self.verdict.max(verdict);
        // A bar would begin the figures, a line break end them.
        self.said.push(said.replace(['|', '\n'], " "));
    }

    fn figure(&mut self, label: &str, value: &str, [warn, crit]: [&str; 2]) {
        let label = label.replace(['\'', '=', '\n', '|'], "_");
        self.figures.push(format!("'{label}'={value};{warn};{crit};0"));
    }

    fn line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "OK",
            Verdict::Warning => "WARNING",
            Verdict::Critical => "CRITICAL",
            Verdict::Unknown => "UNKNOWN",
        };
        let figures = self.figures.join(" ");
        let bar = if figures.is_empty() { "" } else { " | " };
        format!("RINGMESH {verdict} - {}{bar}{figures}", self.said.join(", "))
    }
}

fn size(text: &str) -> Result<u64, String> {
    Size::parse(text).map(|size| size.0).ok_or_else(|| format!("expected {SIZE_FORM}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name that breaks the line would hide what is wrong from whoever is woken at night.
    #[test]
    fn lines_are_as_plug_ins_have_them() {
        let mut findings = Findings { verdict: Verdict::Ok, said: Vec::new(), figures: Vec::new() };
        findings.note(Verdict::Ok, "ready".to_owned());
        assert_eq!(findings.line(), "RINGMESH OK - ready");
        findings.note(Verdict::Critical, "a|b\nc".to_owned());
        findings.note(Verdict::Warning, "less".to_owned());
        findings.figure("it's=a|b lag", "5", ["", "9"]);
        let line = "RINGMESH CRITICAL - ready, a b c, less | 'it_s_a_b lag'=5;;9;0";
        assert_eq!(findings.line(), line);
        let codes = [Verdict::Ok, Verdict::Warning, Verdict::Critical, Verdict::Unknown];
        assert_eq!(codes.map(|verdict| verdict as u8), [0, 1, 2, 3]);
    }
}
