//! The distribution of latencies as a text, as HdrHistogram's own tools write and plot it.

use std::io::{self, Write};

use hdrhistogram::Histogram;

/// The number of steps until the distance to 100 % is half of what it was.
const STEPS: u32 = 5;

/// Formats the percentiles of latencies, which are in nanoseconds, in microseconds.
pub(super) fn text(latencies: &Histogram<u64>) -> Vec<u8> {
    let mut text = Vec::new();
    // Writing to memory can't fail.
    let _ = format(&mut text, latencies);
    text
}

fn format(output: &mut impl Write, latencies: &Histogram<u64>) -> io::Result<()> {
    let micros = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    writeln!(
        output,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut total = 0;
    for step in latencies.iter_quantiles(STEPS) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (micros(step.value_iterated_to()), step.quantile_iterated_to());
        if quantile < 1.0 {
            writeln!(output, "{value:>12.3} {quantile:>2.12} {total:>10} {:>14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(output, "{value:>12.3} {quantile:>2.12} {total:>10}")?;
        }
    }
    let (mean, deviation) = (latencies.mean() / 1e3, latencies.stdev() / 1e3);
    let max = if latencies.is_empty() { 0.0 } else { micros(latencies.max()) };
    writeln!(output, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]")?;
    writeln!(output, "#[Max     = {max:>12.3}, Total count    = {:>12}]", latencies.len())?;
    writeln!(
        output,
        "#[Buckets = {:>12}, SubBuckets     = {:>12}]",
        latencies.buckets(),
        latencies.distinct_values()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distribution_ends_with_the_largest_latency() {
        let mut latencies = Histogram::<u64>::new(3).unwrap();
        (1..=1000_u64).for_each(|micros| latencies.record(micros * 1000).unwrap());
        let mut text = Vec::new();
        format(&mut text, &latencies).unwrap();
        let text = String::from_utf8(text).unwrap();
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|column| column.parse().unwrap()).collect())
            .collect();
        assert!(rows.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]), "{text}");
        let median = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!((median[0] - 500.0).abs() < 2.0 && (median[3] - 2.0).abs() < 0.1, "{median:?}");
        assert_eq!((rows.last().unwrap()[1], rows.last().unwrap()[2]), (1.0, 1000.0));
        assert!(text.contains("Total count    =         1000]"), "{text}");
    }
}
