//! Charts as SVG, written by hand: the same report gives the same bytes, and no library is needed for three shapes.

use std::fmt::Write as _;

use serde::Serialize;

use crate::report::number;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Told apart by people who do not see red and green (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
/// Points of a distribution that are drawn; more would not be seen.
const MAX_POINTS: usize = 500;

#[derive(Debug, Clone, Serialize)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Points joined by lines.
    Lines(Vec<Series>),
    /// One bar each.
    Bars(Vec<(String, f64)>),
}

#[derive(Debug, Clone, Serialize)]
pub struct Chart {
    /// The file's name without `.svg`.
    pub name: String,
    pub title: String,
    pub x: String,
    pub y: String,
    /// Powers of ten on the x axis: growth with the number of peers.
    pub log_x: bool,
    pub shape: Shape,
}

impl Chart {
    /// Which part of the values lies below x: one curve per group.
    #[must_use]
    pub fn distribution(name: &str, title: &str, unit: &str, groups: &[(&str, &[f64])]) -> Self {
        let series = groups.iter().filter(|(_, values)| !values.is_empty()).map(|(name, values)| {
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            let step = sorted.len().div_ceil(MAX_POINTS);
            let last = sorted.len() - 1;
            let points = sorted.iter().enumerate().filter(|(index, _)| index % step == 0 || *index == last);
            let points = points.map(|(index, &value)| (value, 100.0 * as_f64(index + 1) / as_f64(sorted.len())));
            Series { name: (*name).to_owned(), points: points.collect() }
        });
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            x: unit.to_owned(),
            y: "% of all".to_owned(),
            log_x: false,
            shape: Shape::Lines(series.collect()),
        }
    }

    #[must_use]
    pub fn bars(name: &str, title: &str, unit: &str, bars: Vec<(String, f64)>) -> Self {
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            x: String::new(),
            y: unit.to_owned(),
            log_x: false,
            shape: Shape::Bars(bars),
        }
    }

    #[must_use]
    pub fn svg(&self) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
        );
        text(&mut out, LEFT, 22.0, "start", &format!("font-size=\"15\">{}", escape(&self.title)));
        match &self.shape {
            Shape::Lines(series) => self.lines(&mut out, series),
            Shape::Bars(bars) => self.bar_shapes(&mut out, bars),
        }
        text(&mut out, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0, "middle", &format!(">{}", escape(&self.x)));
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        let turned = format!("transform=\"rotate(-90 16 {middle:.1})\">{}", escape(&self.y));
        text(&mut out, 16.0, middle, "middle", &turned);
        out.push_str("</svg>\n");
        out
    }

    fn lines(&self, out: &mut String, series: &[Series]) {
        let scale = |x: f64| if self.log_x { x.max(f64::MIN_POSITIVE).log10() } else { x };
        let points = || series.iter().flat_map(|series| &series.points);
        let least = points().map(|p| scale(p.0)).fold(f64::INFINITY, f64::min);
        let least = if self.log_x { least } else { least.min(0.0) };
        let greatest = points().map(|p| scale(p.0)).fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if least.is_finite() && greatest > least { (least, greatest) } else { (0.0, 1.0) };
        let top = nice(points().map(|p| p.1).fold(0.0, f64::max));
        let x = |value: f64| LEFT + (scale(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT);
        axis_y(out, top);
        if self.log_x {
            let mut ticks: Vec<f64> = points().map(|p| p.0).collect();
            ticks.sort_by(f64::total_cmp);
            ticks.dedup();
            for tick in ticks {
                tick_x(out, x(tick), &number(tick));
            }
        } else {
            for step in 0..=5 {
                let value = low + (high - low) * f64::from(step) / 5.0;
                tick_x(out, x(value), &short(value));
            }
        }
        for (index, series) in series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let mut path = String::new();
            for &(px, py) in &series.points {
                let _ = write!(path, "{:.1},{:.1} ", x(px), y(py, top));
            }
            let _ = writeln!(
                out,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                path.trim_end()
            );
            let at = TOP + 18.0 * as_f64(index);
            let edge = WIDTH - RIGHT + 10.0;
            let _ = writeln!(out, "<rect x=\"{edge}\" y=\"{at}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>");
            text(out, edge + 18.0, at + 10.0, "start", &format!(">{}", escape(&series.name)));
        }
    }

    fn bar_shapes(&self, out: &mut String, bars: &[(String, f64)]) {
        let top = nice(bars.iter().map(|bar| bar.1).fold(0.0, f64::max));
        axis_y(out, top);
        let room = (WIDTH - LEFT - RIGHT) / as_f64(bars.len().max(1));
        for (index, (name, value)) in bars.iter().enumerate() {
            let left = LEFT + room * (as_f64(index) + 0.15);
            let up = y(*value, top);
            let _ = writeln!(
                out,
                "<rect x=\"{left:.1}\" y=\"{up:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                room * 0.7,
                HEIGHT - BOTTOM - up,
                COLOURS[index % COLOURS.len()]
            );
            text(out, left + room * 0.35, up - 4.0, "middle", &format!(">{}", number(*value)));
            text(out, left + room * 0.35, HEIGHT - BOTTOM + 16.0, "middle", &format!(">{}", escape(name)));
        }
    }
}

fn y(value: f64, top: f64) -> f64 {
    HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)
}

fn axis_y(out: &mut String, top: f64) {
    let right = WIDTH - RIGHT;
    for step in 0..=5 {
        let value = top * f64::from(step) / 5.0;
        let at = y(value, top);
        let _ = writeln!(out, "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>");
        text(out, LEFT - 6.0, at + 4.0, "end", &format!(">{}", short(value)));
    }
}

fn tick_x(out: &mut String, at: f64, label: &str) {
    text(out, at, HEIGHT - BOTTOM + 16.0, "middle", &format!(">{label}"));
}

/// `rest`: further attributes, `>`, the text.
fn text(out: &mut String, x: f64, y: f64, anchor: &str, rest: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {rest}</text>");
}

/// The next 1, 2 or 5 times a power of ten.
fn nice(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|top| *top >= value).unwrap_or(10.0 * power)
}

fn short(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { number(value) }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[allow(clippy::cast_precision_loss, reason = "counts of what is drawn")]
const fn as_f64(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_inside_and_the_bytes_are_the_same_each_time() {
        let values: Vec<f64> = (0..2_000).map(|n| f64::from(n) * 0.7).collect();
        let chart = Chart::distribution("join", "Join <times>", "seconds", &[("a & b", &values), ("empty", &[])]);
        let svg = chart.svg();
        assert_eq!(svg, chart.svg());
        assert!(svg.contains("Join &lt;times&gt;") && svg.contains("a &amp; b") && !svg.contains("empty"));
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert!(points.split(' ').count() <= MAX_POINTS + 1);
        for point in points.split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((LEFT..=WIDTH - RIGHT + 0.1).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
        }
    }

    #[test]
    fn nothing_to_draw_is_no_reason_to_panic() {
        for chart in [
            Chart::bars("x", "x", "n", vec![]),
            Chart::bars("x", "x", "n", vec![("zero".into(), 0.0)]),
            Chart::distribution("x", "x", "s", &[]),
            Chart::distribution("x", "x", "s", &[("one", &[0.0])]),
        ] {
            assert!(!chart.svg().contains("NaN") && !chart.svg().contains("inf"));
        }
    }

    #[test]
    fn tops_are_round() {
        for (value, top) in [(0.0, 1.0), (0.03, 0.05), (7.0, 10.0), (100.0, 100.0), (101.0, 200.0)] {
            assert!((nice(value) - top).abs() < 1e-9, "{value}");
        }
    }
}
