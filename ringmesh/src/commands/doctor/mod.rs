//! `ringmesh doctor`: whether this machine can run a server, and what to change if not.
//!
//! What is looked at is what a start looks at, by the same code; each check tells a fact, a verdict and what to do.
//! Limits are those of the process that asks: a service that is started in another way may have others.

mod machine;
mod place;

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::args::{Output, time};
use super::configuration::ConfigurationArgs;
use super::failure::{Exit, Failure};
use super::output::print;
use crate::config::Config;
use crate::server::options;

/// `doctor`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh doctor --data /var/lib/ringmesh\n  \
    ringmesh doctor --config ringmesh.toml -o json\n\n\
    It takes the flags of `ringmesh serve`, for what must be there depends on them. Limits are those of the shell or\n\
    service that it runs in. In DIR, or the folder that DIR would be made in, it writes one small file and removes it.\n\
    Exit codes: 0 nothing fails (there may be warnings), 1 something fails, 2 usage.")]
pub struct DoctorArgs {
    /// How long to wait for a server that has one of the ports
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    pub timeout: Duration,
    /// How the findings are printed: for people, or one JSON object a line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// What the server would be told.
    #[command(flatten)]
    pub configuration: ConfigurationArgs,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// A server runs, but slower or with less room than it could.
    Warn,
    /// A server does not start, or does not last.
    Fail,
}

/// What one check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    result: Verdict,
    /// The fact, in one line.
    finding: String,
    /// What to change; none where nothing is wrong or the fact says it.
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, finding: impl Into<String>) -> Self {
        Finding { check, result: Verdict::Ok, finding: finding.into(), advice: None }
    }

    fn warn(check: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Finding { check, result: Verdict::Warn, finding: finding.into(), advice }
    }

    fn fail(check: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into()).filter(|advice| !advice.is_empty());
        Finding { check, result: Verdict::Fail, finding: finding.into(), advice }
    }

    fn text(&self) -> String {
        let verdict = match self.result {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        let mut text = format!("{verdict:<6}{:<13}{}\n", self.check, self.finding);
        if let Some(advice) = &self.advice {
            text.push_str(&format!("{:<19}-> {advice}\n", ""));
        }
        text
    }
}

/// Runs the command.
///
/// # Errors
/// The configuration is wrong, or a check fails.
pub fn run(arguments: DoctorArgs) -> Result<(), Failure> {
    let loaded = arguments.configuration.load()?;
    let findings = examine(&loaded.config, arguments.timeout);
    let mut out = Vec::new();
    for finding in &findings {
        match arguments.output {
            Output::Text => out.extend(finding.text().bytes()),
            Output::Json => {
                let line = serde_json::to_vec(finding).expect("texts are JSON");
                out.extend(line.into_iter().chain([b'\n']));
            }
        }
    }
    print(&out)?;
    let failed = findings.iter().filter(|finding| finding.result == Verdict::Fail).count();
    if failed == 0 {
        return Ok(());
    }
    let message = format!("{failed} of {} checks fail", findings.len());
    Err(Failure::new(Exit::Failed, message, "what to change stands with each of them"))
}

/// All checks, in the order in which a start would meet them.
fn examine(config: &Config, timeout: Duration) -> Vec<Finding> {
    let shards = options::shards(config);
    let mut findings = machine::limits(shards);
    findings.push(machine::open_files(config));
    findings.push(machine::cores(shards));
    findings.push(machine::memory(config, shards));
    findings.push(machine::clock());
    findings.push(place::native_port(config, timeout));
    findings.extend(place::http_port(config, timeout));
    findings.extend(place::admin_port(config, timeout));
    findings.extend(place::paused(config, timeout));
    findings.push(place::folder(config));
    findings.push(place::space(config, shards));
    findings
}
