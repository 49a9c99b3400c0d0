//! The tables of results, as Markdown.

use std::fmt::Write as _;

use super::{
    comparison::{Results, Row, TaskRow},
    figures::{Figures, Spread},
    java::JVM_OPTIONS,
    measures::{MEASURES, Measure},
    plan::{Target, bytes, thousands},
};
use crate::{limits::Limit, tasks::Threads};

/// Formats all results as Markdown.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = String::new();
    head(&mut text, results);
    ratios(&mut text, results);
    against_the_limit(&mut text, results);
    tasks(&mut text, results);
    allocations(&mut text, results);
    memory_in_flight(&mut text, results);
    for measure in &MEASURES {
        spreads(&mut text, results, measure);
    }
    limits(&mut text, &results.limits);
    text
}

/// Appends a line; writing to a string can't fail.
macro_rules! line {
    ($text:expr, $($format:tt)*) => {
        let _ = writeln!($text, $($format)*);
    };
}

fn head(text: &mut String, results: &Results) {
    let plan = &results.plan;
    let (run, command) = if plan.quick { ("quick", " --quick") } else { ("full", "") };
    line!(text, "# metaq beside the Java client 1.4.6.2\n");
    line!(text, "Written by `cargo xtask bench{command}`: the {run} run, {} s.\n", results.took.as_secs());
    for (name, fact) in &results.machine {
        line!(text, "- {name}: {fact}");
    }
    line!(text, "- JVM options: `{}`, the rest as the JVM chooses\n", JVM_OPTIONS.join(" "));
    line!(
        text,
        "Everything is on one machine, over loopback. The brokers are found in a real ZooKeeper by both clients. The *null \
         broker* stores nothing and answers at once, on one thread; the *real broker* is the Java one 1.4.6.2, warmed up. \
         Java sends by callbacks, each case in a process of its own that gets {} rounds of about {:.1} s to be compiled \
         before it is measured; metaq is `metaq bench`. A third client, *raw*, sends the same bytes from a loop without \
         a runtime. The three take turns, {} rounds of about {:.1} s each (raw: 0.3 s), and a case is `payload, messages \
         in flight`. Latency is the time from just before a message is sent until its sender has the answer. Where cores \
         are *awake*, a loop of the lowest priority (SCHED_IDLE) keeps them from halting.\n",
        plan.warm_up,
        plan.warm_up_round.as_secs_f64(),
        plan.rounds,
        plan.round.as_secs_f64()
    );
    if !plan.left_out.is_empty() {
        let cases: Vec<_> = plan.left_out.iter().map(|case| format!("`{case}`")).collect();
        line!(text, "Left out, since what is in flight takes more than 128 MiB: {}.\n", cases.join(", "));
    }
    let failures = |figures: &[Figures]| figures.iter().map(|figures| figures.failures).sum::<u64>();
    for row in &results.rows {
        let (java, metaq) = (failures(&row.java), failures(&row.metaq));
        if java + metaq > 0 {
            line!(text, "**Failed in `{}`: {java} messages of Java, {metaq} of metaq.**\n", row.case);
        }
    }
}

fn ratios(text: &mut String, results: &Results) {
    line!(text, "## How many times better than Java\n");
    line!(text, "By the medians; above 1 metaq is faster, or takes less.\n");
    line!(text, "| case | messages/s | p50 | p99 | CPU per message | peak memory |");
    line!(text, "|---|--:|--:|--:|--:|--:|");
    for row in &results.rows {
        let cells: Vec<_> = MEASURES.iter().map(|measure| times(measure.ratio(row))).collect();
        line!(text, "| {} | {} |", row.case, cells.join(" | "));
    }
    line!(text, "");
}

fn against_the_limit(text: &mut String, results: &Results) {
    let [rate, p50, _, cpu, _] = &MEASURES;
    line!(text, "## Against the limit\n");
    line!(
        text,
        "The raw client makes, sums and encodes each message and reads each answer, as metaq does, over one connection and \
         in one thread. With one message in flight it is a ping-pong, each timed. TCP is what one connection carries when \
         nobody looks at it.\n"
    );
    line!(text, "| case | of raw's rate | CPU, raw = 1 | p50 beyond raw, µs | of TCP's rate |");
    line!(text, "|---|--:|--:|--:|--:|");
    for row in &results.rows {
        let pair = |measure: &Measure| Some((measure.metaq(row)?.median, measure.raw(row)?.median));
        let of_raw = pair(rate).map(|(metaq, raw)| metaq / raw);
        let beyond = pair(p50).map_or_else(none, |(metaq, raw)| format!("{:.1}", metaq - raw));
        let tcp = results.limits.iter().find(|limit| limit.what == "TCP" && limit.size == row.case.size);
        let tcp = tcp.filter(|_| row.case.target == Target::Null);
        let of_tcp = tcp.and_then(|tcp| Some(rate.metaq(row)?.median / tcp.msgs_per_s));
        let cpu = times(pair(cpu).map(|(metaq, raw)| metaq / raw));
        line!(text, "| {} | {} | {cpu} | {beyond} | {} |", row.case, percent(of_raw), percent(of_tcp));
    }
    line!(text, "");
}

fn tasks(text: &mut String, results: &Results) {
    // The Java client with as many callbacks in flight.
    let mut rows = results.rows.iter();
    let java = rows.find(|row| row.case.to_string() == "128 B, 1,024").and_then(|row| MEASURES[0].java(row));
    line!(text, "## Many tasks that send one message at a time each\n");
    line!(text, "128 B, null broker. Java: with 1,024 callbacks in flight. Rates are min / median / max.\n");
    line!(
        text,
        "| tasks | runtime | messages/s | times Java | p50, µs | p99, µs | CPU, µs | memory, MiB | most / fewest of a task |"
    );
    line!(text, "|--:|---|--:|--:|--:|--:|--:|--:|--:|");
    for TaskRow { tasks, threads, rounds } in &results.tasks {
        let spread = |of: fn(&crate::tasks::TaskFigures) -> f64| Spread::of(rounds.iter().map(of));
        let median = |of, decimals| spread(of).map_or_else(none, |spread| number(spread.median, decimals));
        let rate = spread(|round| round.msgs_per_s);
        let ratio = rate.zip(java).map(|(metaq, java)| metaq.median / java.median);
        line!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            thousands(f64::from(*tasks)),
            runtime(*threads),
            triple(rate, 0),
            times(ratio),
            median(|round| round.p50_us, 0),
            median(|round| round.p99_us, 0),
            median(|round| round.cpu_us_per_msg, 2),
            median(|round| round.max_rss_kib as f64 / 1024.0, 1),
            median(|round| round.most_per_task as f64 / round.fewest_per_task as f64, 2)
        );
    }
    line!(text, "");
}

fn allocations(text: &mut String, results: &Results) {
    line!(text, "## Allocations\n");
    line!(text, "Once warmed up, 128 B, null broker; of metaq with 1,024 tasks, counted by its allocator.\n");
    line!(text, "| client | allocations per message | bytes per message |");
    line!(text, "|---|--:|--:|");
    for row in results.rows.iter().filter(|row| row.case.size == 128 && row.case.target == Target::Null) {
        let bytes = Spread::of(row.java.iter().filter_map(|figures| figures.alloc_bytes_per_msg));
        let bytes = bytes.map_or_else(none, |spread| number(spread.median, 0));
        line!(text, "| Java, {} | not counted by the JVM | {bytes} |", row.case);
    }
    for figures in &results.allocations {
        let cell = |counted: Option<f64>| counted.map_or_else(none, |counted| number(counted, 2));
        let (count, bytes) = (cell(figures.allocations_per_msg), cell(figures.alloc_bytes_per_msg));
        line!(text, "| metaq, {} | {count} | {bytes} |", runtime(figures.threads));
    }
    line!(text, "");
}

/// Appends the memory of a message in flight: the difference of the peaks with few and with many messages,
/// per message.
fn memory_in_flight(text: &mut String, results: &Results) {
    let [_, _, _, _, memory] = &MEASURES;
    let row = |window: usize| {
        results.rows.iter().find(|row| {
            let case = row.case;
            (case.target, case.size, case.window, case.awake) == (Target::Null, 128, window, false)
        })
    };
    let Some((few, many)) = row(64).zip(row(8192)) else { return };
    line!(text, "## Memory of a message in flight\n");
    line!(
        text,
        "By which the peaks of memory differ with 64 and with 8,192 messages of 128 B in flight, for each of these messages. \
         Includes what a buffer holds of it; the payload itself is shared by all.\n"
    );
    line!(text, "| client | bytes |");
    line!(text, "|---|--:|");
    for (name, of) in [("Java", Measure::java as fn(&Measure, &Row) -> _), ("metaq", Measure::metaq)] {
        let peak = |row| of(memory, row).map(|spread: Spread| spread.median * 1024.0 * 1024.0);
        let bytes = peak(many).zip(peak(few)).map(|(many, few)| (many - few) / (8192.0 - 64.0));
        line!(text, "| {name} | {} |", bytes.map_or_else(none, |bytes| number(bytes, 0)));
    }
    line!(text, "");
}

fn spreads(text: &mut String, results: &Results, measure: &Measure) {
    line!(text, "## {}\n", measure.name);
    line!(text, "min / median / max.\n");
    line!(text, "| case | Java | metaq | raw |");
    line!(text, "|---|--:|--:|--:|");
    for row in &results.rows {
        let cells = [measure.java(row), measure.metaq(row), measure.raw(row)];
        let cells = cells.map(|spread| triple(spread, measure.decimals));
        line!(text, "| {} | {} |", row.case, cells.join(" | "));
    }
    line!(text, "");
}

fn limits(text: &mut String, limits: &[Limit]) {
    line!(text, "## What else the machine allows\n");
    line!(text, "To the null broker: puts that were made beforehand, by the raw client; and TCP alone.\n");
    line!(text, "| what | payload | in flight | messages/s | CPU, µs |");
    line!(text, "|---|--:|--:|--:|--:|");
    for limit in limits {
        let window = if limit.window == 0 { none() } else { thousands(limit.window as f64) };
        let cpu = limit.cpu_us_per_msg.map_or_else(none, |cpu| number(cpu, 2));
        let (size, rate) = (bytes(limit.size), thousands(limit.msgs_per_s));
        line!(text, "| {} | {size} | {window} | {rate} | {cpu} |", limit.what);
    }
}

fn runtime(threads: Threads) -> &'static str {
    match threads {
        Threads::One => "current-thread",
        Threads::Many => "multi-thread",
    }
}

/// The text of a cell without a measurement.
fn none() -> String {
    "–".to_owned()
}

fn number(value: f64, decimals: usize) -> String {
    if decimals == 0 { thousands(value) } else { format!("{value:.decimals$}") }
}

fn triple(spread: Option<Spread>, decimals: usize) -> String {
    let text =
        |Spread { min, median, max }| [min, median, max].map(|value| number(value, decimals)).join(" / ");
    spread.map_or_else(none, text)
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(none, |ratio| format!("{ratio:.2}"))
}

fn percent(ratio: Option<f64>) -> String {
    ratio.map_or_else(none, |ratio| format!("{:.0} %", ratio * 100.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::compare::plan::Plan;

    fn figures(msgs_per_s: f64, p50_us: f64, cpu_us_per_msg: f64) -> Figures {
        let (p99_us, max_rss_kib) = (2.0 * p50_us, 2048);
        let alloc_bytes_per_msg = Some(2900.0);
        Figures { msgs_per_s, p50_us, p99_us, cpu_us_per_msg, max_rss_kib, failures: 0, alloc_bytes_per_msg }
    }

    fn results() -> Results {
        let mut plan = Plan::quick();
        plan.retain("128 B, 1,024");
        let raw = Limit::new("no-async loop", 128, 1024, 4_000_000, Duration::from_secs(1));
        let raw = vec![raw.with_cpu(Duration::from_secs(1), 4_000_000)];
        let java = [100_000.0, 300_000.0, 200_000.0].map(|rate| figures(rate, 6000.0, 8.0)).to_vec();
        let metaq = vec![figures(3_000_000.0, 300.0, 0.5)];
        let tcp = Limit::new("TCP", 128, 0, 15_000_000, Duration::from_secs(1));
        Results {
            rows: vec![Row { case: plan.cases[0], java, metaq, raw }],
            plan,
            machine: vec![("processor", "a fast one".to_owned())],
            limits: vec![tcp],
            tasks: Vec::new(),
            allocations: Vec::new(),
            took: Duration::from_secs(60),
        }
    }

    #[test]
    fn tables_compare_medians() {
        let text = markdown(&results());
        for line in [
            "- processor: a fast one",
            "| 128 B, 1,024 | 15.00 | 20.00 | 20.00 | 16.00 | 1.00 |",
            "| 128 B, 1,024 | 75 % | 2.00 | – | 20 % |",
            "| 128 B, 1,024 | 100,000 / 200,000 / 300,000 | 3,000,000 / 3,000,000 / 3,000,000 | 4,000,000 / 4,000,000 / 4,000,000 |",
            "| 128 B, 1,024 | 2.0 / 2.0 / 2.0 | 2.0 / 2.0 / 2.0 | – |",
            "| Java, 128 B, 1,024 | not counted by the JVM | 2,900 |",
            "| TCP | 128 B | – | 15,000,000 | – |",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\nis not in\n{text}");
        }
        assert!(!text.contains("Failed"), "{text}");
    }

    #[test]
    fn memory_of_a_message_is_the_difference_of_peaks() {
        let mut results = results();
        let plan = Plan::quick();
        results.rows.clear();
        for (window, metaq_kib, java_kib) in [(64, 6000, 300_000), (8192, 6000 + 2 * 8128, 300_000)] {
            let case = plan.cases.iter().find(|case| (case.size, case.window) == (128, window));
            let round = |max_rss_kib| vec![Figures { max_rss_kib, ..figures(1.0, 1.0, 1.0) }];
            let (java, metaq) = (round(java_kib), round(metaq_kib));
            results.rows.push(Row { case: *case.unwrap(), java, metaq, raw: Vec::new() });
        }
        let text = markdown(&results);
        assert!(text.contains("| Java | 0 |\n| metaq | 2,048 |\n"), "{text}");
    }

    #[test]
    fn failed_messages_are_reported() {
        let mut results = results();
        results.rows[0].metaq[0].failures = 7;
        assert!(markdown(&results).contains("**Failed in `128 B, 1,024`: 0 messages of Java, 7 of metaq.**"));
    }
}
