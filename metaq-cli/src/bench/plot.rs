//! A picture of a run: latencies by percentile above, rate and latencies over time below.

use std::{fmt, io, ops::Range};

use hdrhistogram::Histogram;
use plotters::{
    coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter},
    prelude::*,
};

use super::timeline::{Interval, merge};

/// The size of the picture in pixels.
const SIZE: (u32, u32) = (1000, 1050);

/// The most points of a curve over time.
const MAX_POINTS: usize = 500;

const FONT: &str = "sans-serif";
const MEDIAN: RGBColor = RGBColor(31, 119, 180);
const HIGH: RGBColor = RGBColor(214, 39, 40);
const RATE: RGBColor = RGBColor(44, 160, 44);

type Drawing<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type DrawingError = Box<dyn std::error::Error + Send + Sync>;

/// Draws a run to a file. Latencies are in nanoseconds.
///
/// # Errors
/// When the file can't be written.
pub(super) fn draw(title: &str, latencies: &Histogram<u64>, timeline: &[Interval]) -> io::Result<String> {
    let mut picture = String::new();
    draw_to(&mut picture, title, latencies, timeline).map_err(io::Error::other)?;
    Ok(picture)
}

fn draw_to(
    picture: &mut String,
    title: &str,
    latencies: &Histogram<u64>,
    timeline: &[Interval],
) -> Result<(), DrawingError> {
    let drawing = SVGBackend::with_string(picture, SIZE).into_drawing_area();
    drawing.fill(&WHITE).map_err(failed)?;
    let drawing = drawing.margin(8, 0, 0, 0).titled(title, (FONT, 18)).map_err(failed)?;
    let (percentiles, over_time) = drawing.split_vertically(400);
    let (rates, delays) = over_time.split_vertically(300);
    let points = merge(timeline, timeline.len().div_ceil(MAX_POINTS));
    draw_percentiles(&percentiles, latencies)?;
    draw_rate(&rates, &points)?;
    draw_latencies(&delays, &points)?;
    drawing.present().map_err(failed)
}

fn failed(error: impl fmt::Display) -> DrawingError {
    error.to_string().into()
}

/// Percentiles in which each further nine takes the same space: 0 %, 90 %, 99 %, …
#[derive(Clone)]
struct Nines(f64);

impl Nines {
    /// The place of a quantile: the number of nines.
    fn place(quantile: f64) -> f64 {
        -(1.0 - quantile).max(1e-9).log10()
    }
}

impl Ranged for Nines {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (f64::from(limit.1 - limit.0) * place / self.0).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let half = Self::place(0.5);
        [0.0, half].into_iter().chain((1..=self.0 as u32).map(f64::from)).collect()
    }

    fn range(&self) -> Range<f64> {
        0.0..self.0
    }
}

impl ValueFormatter<f64> for Nines {
    fn format_ext(&self, place: &f64) -> String {
        let percent = 100.0 - 100.0 * 10_f64.powf(-place);
        let digits = (place - 2.0).max(0.0).round() as usize;
        format!("{percent:.digits$}%")
    }
}

fn draw_percentiles(area: &Drawing<'_>, latencies: &Histogram<u64>) -> Result<(), DrawingError> {
    let mut curve: Vec<(f64, f64)> = Vec::new();
    for step in latencies.iter_quantiles(5) {
        if step.quantile_iterated_to() < 1.0 {
            curve.push((Nines::place(step.quantile_iterated_to()), step.value_iterated_to() as f64));
        }
    }
    if !latencies.is_empty() {
        let last = Nines::place(1.0 - 1.0 / latencies.len() as f64);
        curve.push((curve.last().map_or(last, |point| point.0.max(last)), latencies.max() as f64));
    }
    let most = curve.last().map_or(1.0, |point| point.0.max(1.0));
    let mut chart = chart(area, "latency by percentile")
        .build_cartesian_2d(Nines(most), logarithmic(curve.iter().map(|point| point.1)))
        .map_err(failed)?;
    let mut mesh = chart.configure_mesh();
    mesh.y_label_formatter(&|value| duration(*value)).x_label_style((FONT, 14)).y_label_style((FONT, 14));
    mesh.light_line_style(WHITE).draw().map_err(failed)?;
    chart.draw_series(LineSeries::new(curve, MEDIAN.stroke_width(2))).map_err(failed)?;
    Ok(())
}

fn draw_rate(area: &Drawing<'_>, points: &[Interval]) -> Result<(), DrawingError> {
    let rate = |point: &Interval| point.count as f64 / point.length.as_secs_f64().max(1e-9);
    let end = end(points);
    // The last interval is shorter, and its rate accidental.
    let points = &points[..points.len().saturating_sub(usize::from(points.len() > 2))];
    let most = points.iter().map(rate).fold(1.0, f64::max);
    let mut chart = chart(area, "acknowledged messages each second")
        .build_cartesian_2d(0.0..end, 0.0..most * 1.1)
        .map_err(failed)?;
    let mut mesh = chart.configure_mesh();
    mesh.y_label_formatter(&|rate| count(*rate)).x_label_formatter(&|time| format!("{time:.1} s"));
    mesh.x_label_style((FONT, 14)).y_label_style((FONT, 14)).light_line_style(WHITE);
    mesh.draw().map_err(failed)?;
    let curve = points.iter().map(|point| (middle(point), rate(point)));
    chart.draw_series(LineSeries::new(curve, RATE.stroke_width(2))).map_err(failed)?;
    Ok(())
}

fn draw_latencies(area: &Drawing<'_>, points: &[Interval]) -> Result<(), DrawingError> {
    let last = end(points);
    let points: Vec<_> = points.iter().filter(|point| point.count > 0).collect();
    let values = points.iter().flat_map(|point| [point.p50 as f64, point.p99 as f64]);
    let range = logarithmic(values);
    let mut chart = chart(area, "latency over time: 99 % (red) and median (blue)")
        .build_cartesian_2d(0.0..last, range)
        .map_err(failed)?;
    let mut mesh = chart.configure_mesh();
    mesh.y_label_formatter(&|value| duration(*value)).x_label_formatter(&|time| format!("{time:.1} s"));
    mesh.x_label_style((FONT, 14)).y_label_style((FONT, 14)).light_line_style(WHITE);
    mesh.draw().map_err(failed)?;
    // The caption names the colours: a legend would lie upon the curves.
    for (color, value) in
        [(HIGH, (|point: &Interval| point.p99) as fn(&Interval) -> u64), (MEDIAN, |point| point.p50)]
    {
        let curve = points.iter().map(|point| (middle(point), value(point) as f64));
        chart.draw_series(LineSeries::new(curve, color.stroke_width(2))).map_err(failed)?;
    }
    Ok(())
}

fn chart<'a, 'b>(area: &'a Drawing<'b>, caption: &str) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut chart = ChartBuilder::on(area);
    chart.caption(caption, (FONT, 16)).margin(12).margin_right(30);
    chart.x_label_area_size(30).y_label_area_size(80);
    chart
}

/// A logarithmic axis for these values, which begins and ends at powers of ten.
fn logarithmic(values: impl Iterator<Item = f64>) -> LogCoord<f64> {
    let (least, most) =
        values.fold((f64::MAX, 1.0_f64), |(least, most), value| (least.min(value.max(1.0)), most.max(value)));
    let least = if least > most { 1.0 } else { least };
    let (least, most) = (10_f64.powf(least.log10().floor()), 10_f64.powf(most.log10().ceil()));
    (least..most.max(least * 10.0)).log_scale().into()
}

fn middle(point: &Interval) -> f64 {
    (point.start + point.length / 2).as_secs_f64()
}

fn end(points: &[Interval]) -> f64 {
    points.last().map_or(1.0, |point| (point.start + point.length).as_secs_f64())
}

/// Formats nanoseconds.
fn duration(nanoseconds: f64) -> String {
    match nanoseconds {
        value if value < 1e3 => format!("{value:.0} ns"),
        value if value < 1e6 => format!("{:.0} µs", value / 1e3),
        value if value < 1e9 => format!("{:.0} ms", value / 1e6),
        value => format!("{:.0} s", value / 1e9),
    }
}

/// Formats a number of messages.
fn count(value: f64) -> String {
    match value {
        value if value < 1e3 => format!("{value:.0}"),
        value if value < 1e6 => format!("{:.1} k", value / 1e3),
        value => format!("{:.2} M", value / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_run_has_a_picture() {
        let mut latencies = Histogram::<u64>::new(3).unwrap();
        let mut timeline = Vec::new();
        for number in [0, 1, 2, 5000] {
            (0..number).for_each(|n| latencies.record(1000 + n * n).unwrap());
            timeline.resize(number as usize, Interval::default());
            for (n, interval) in timeline.iter_mut().enumerate() {
                let start = Duration::from_millis(100) * n as u32;
                let (p50, p99) = (n as u64 * 10, n as u64 * 1000);
                *interval = Interval {
                    start,
                    length: Duration::from_millis(100),
                    count: n as u64 % 7,
                    p50,
                    p99,
                    max: p99,
                };
            }
            let mut picture = String::new();
            draw_to(&mut picture, "a <title> & more", &latencies, &timeline).unwrap();
            assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"), "{picture}");
            assert!(picture.contains("a &lt;title&gt; &amp; more") && picture.contains("latency over time"));
            assert!(picture.len() < 500_000, "{} bytes for {number} messages", picture.len());
        }
    }

    #[test]
    fn both_axes_of_time_are_the_same() {
        let mut latencies = Histogram::<u64>::new(3).unwrap();
        latencies.record(1000).unwrap();
        let length = Duration::from_millis(100);
        let interval = |n| Interval { start: length * n, length, count: 3, p50: 1000, p99: 2000, max: 2000 };
        let timeline: Vec<_> = (0..11).map(interval).collect();
        let picture = draw("title", &latencies, &timeline).unwrap();
        let place_of_label = |text: &str| {
            let (start, label) = text.split_once(">\n")?;
            let is_below = start.contains("middle") && label.starts_with("0.6 s\n");
            is_below.then(|| start.split('"').nth(1).unwrap().to_owned())
        };
        let places: Vec<_> = picture.split("<text ").filter_map(place_of_label).collect();
        assert_eq!(places.len(), 2, "{picture}");
        assert_eq!(places[0], places[1], "the same time is at the same place");
    }

    #[test]
    fn each_nine_is_as_far_from_the_next() {
        let nines = Nines(5.0);
        let places = [0.0, 0.9, 0.99, 0.999].map(|quantile| nines.map(&Nines::place(quantile), (0, 500)));
        assert_eq!(places, [0, 100, 200, 300]);
        let labels = [0.0, 1.0, 2.0, 3.0, 4.0].map(|place| nines.format_ext(&place));
        assert_eq!(labels, ["0%", "90%", "99%", "99.9%", "99.99%"]);
    }
}
