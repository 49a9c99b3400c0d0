//! Compares two builds of metaq, in turns.

use std::{
    io::{self, Write as _},
    path::Path,
};

use super::{
    Result,
    environment::Environment,
    figures::{Figures, Spread},
    metaq,
    plan::{Case, Plan, Target, thousands},
    print_message,
};

/// A figure of both builds.
struct Measure {
    name: &'static str,
    of: fn(&Figures) -> f64,
}

const MEASURES: [Measure; 4] = [
    Measure { name: "rate", of: |figures| figures.msgs_per_s },
    Measure { name: "CPU per message", of: |figures| figures.cpu_us_per_msg },
    Measure { name: "99th percentile", of: |figures| figures.p99_us },
    Measure { name: "peak memory", of: |figures| figures.max_rss_kib as f64 },
];

/// The pairs with the real broker for each with the null broker: its garbage collector and its disk scatter
/// the figures of single rounds.
const REAL_ROUNDS: usize = 4;

/// The rounds between two looks at how the real broker's rate grows.
const WARM_UP_ROUNDS: usize = 3;

/// The looks after which it has to be good enough.
const WARM_UPS: usize = 10;

/// The growth from one look to the next that is none.
const GROWTH: f64 = 1.05;

/// The rounds of one case. The builds of a pair were measured one after the other, the former build first in
/// every other pair.
struct Pairs {
    case: Case,
    pairs: Vec<[Figures; 2]>,
}

/// Runs the build at `former` and the current one in turns through the cases of `plan`, and prints the ratios
/// of their figures.
///
/// # Errors
/// When a program can't be run, or the table can't be printed.
pub(super) fn run(environment: &Environment, plan: &Plan, former: &Path) -> Result<()> {
    let current = environment.program("metaq");
    let mut rows = Vec::new();
    for &case in &plan.cases {
        let _awake = case.awake.then(|| environment.keep_awake()).transpose()?;
        let trial = metaq::round(environment, &current, case, plan.messages(1000.0, case))?;
        let mut messages = plan.messages(trial.msgs_per_s, case);
        let mut rounds = plan.rounds;
        if case.target == Target::Real {
            messages = plan.messages(warm_up(environment, &current, case, messages)?, case);
            rounds *= REAL_ROUNDS;
        }
        let mut row = Pairs { case, pairs: Vec::new() };
        for round in 0..rounds {
            let pair = if round % 2 == 0 {
                let former = metaq::round(environment, former, case, messages)?;
                [former, metaq::round(environment, &current, case, messages)?]
            } else {
                let current = metaq::round(environment, &current, case, messages)?;
                [metaq::round(environment, former, case, messages)?, current]
            };
            let [former, current] = &pair;
            print_message(&format!(
                "{case}: former {}/s, current {}/s",
                thousands(former.msgs_per_s),
                thousands(current.msgs_per_s)
            ));
            row.pairs.push(pair);
        }
        rows.push(row);
    }
    Ok(write!(io::stdout(), "{}", table(&rows))?)
}

/// Sends to the real broker, a Java program, until its rate no longer grows by more than [`GROWTH`]; returns
/// its rate.
fn warm_up(environment: &Environment, program: &Path, case: Case, messages: u64) -> Result<f64> {
    print_message(&format!("{case}: warming the real broker up"));
    let mut best: f64 = 0.0;
    for _ in 0..WARM_UPS {
        let before = best;
        for _ in 0..WARM_UP_ROUNDS {
            best = best.max(metaq::round(environment, program, case, messages)?.msgs_per_s);
        }
        if best < before * GROWTH {
            break;
        }
    }
    Ok(best)
}

/// Formats the ratios current / former as a table: the median of all pairs, and minimum and maximum in
/// brackets.
fn table(rows: &[Pairs]) -> String {
    let names = MEASURES.map(|measure| measure.name).join(" | ");
    let mut text = format!(
        "Current / former, medians of all pairs (least to most):\n\n| messages, in flight | pairs | {names} |\n|---|---|{}\n",
        "---|".repeat(MEASURES.len())
    );
    for row in rows {
        let ratios = MEASURES.iter().map(|measure| {
            let ratios =
                row.pairs.iter().map(|[former, current]| (measure.of)(current) / (measure.of)(former));
            let Spread { min, median, max } = Spread::of(ratios)?;
            Some(format!("{median:.3} ({min:.2} to {max:.2})"))
        });
        let ratios: Vec<_> = ratios.map(|ratio| ratio.unwrap_or_else(|| "none".to_owned())).collect();
        text.push_str(&format!("| {} | {} | {} |\n", row.case, row.pairs.len(), ratios.join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rate: f64, cpu: f64) -> Figures {
        serde_json::from_value(serde_json::json!({
            "msgs_per_s": rate, "p50_us": 1.0, "p99_us": 2.0, "cpu_us_per_msg": cpu, "max_rss_kib": 100, "failures": 0
        }))
        .expect("figures as the command prints them")
    }

    #[test]
    fn ratios_are_computed_by_pair() {
        let case = Plan::quick().cases[0];
        let pairs = vec![
            [figures(100.0, 2.0), figures(110.0, 1.0)],
            [figures(200.0, 2.0), figures(200.0, 3.0)],
            [figures(50.0, 1.0), figures(60.0, 1.0)],
        ];
        let text = table(&[Pairs { case, pairs }]);
        let wanted = "| 128 B, 1 | 3 | 1.100 (1.00 to 1.20) | 1.000 (0.50 to 1.50) | 1.000 (1.00 to 1.00) | 1.000 (1.00 to 1.00) |";
        assert!(text.lines().any(|line| line == wanted), "{text}");
    }
}
