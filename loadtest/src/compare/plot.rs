//! Plots as SVG text: curves over a logarithmic scale, and bars. Nothing is fetched when they are shown.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
/// Room for the scales' words, on the left and below.
const LEFT: f64 = 64.0;
const BELOW: f64 = 40.0;
const ABOVE: f64 = 28.0;
const RIGHT: f64 = 16.0;
/// Height of a bar with the gap after it.
const BAR: f64 = 26.0;
/// Room for a bar's name.
const BAR_NAME: f64 = 150.0;
/// Room for a bar's figure.
const BAR_FIGURE: f64 = 150.0;

/// One curve.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    /// Whose.
    pub(super) name: String,
    /// Its colour, as CSS says it.
    pub(super) colour: &'static str,
    /// Where it goes: x, and microseconds.
    pub(super) points: Vec<(f64, f64)>,
}

/// One bar, with its spread over the rounds.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    /// Whose.
    pub(super) name: String,
    /// Its colour.
    pub(super) colour: &'static str,
    /// Its length.
    pub(super) median: f64,
    /// The least of the rounds.
    pub(super) least: f64,
    /// The most.
    pub(super) most: f64,
}

/// The scale below curves.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    /// What it counts.
    pub(super) label: &'static str,
    /// Where it begins and ends.
    pub(super) range: (f64, f64),
    /// Where a word stands, and which.
    pub(super) words: Vec<(f64, String)>,
}

/// Curves of microseconds over `scale`. Points that are not above zero have no place on a logarithmic scale and are left
/// out. Empty when there is nothing to draw.
pub(super) fn curves(title: &str, scale: &Scale, curves: &[Curve]) -> String {
    let all = || curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
    let least = all().filter(|us| *us > 0.0).fold(f64::INFINITY, f64::min);
    let most = all().fold(0.0, f64::max);
    if !least.is_finite() {
        return String::new();
    }
    let low = least.log10().floor();
    let high = most.log10().ceil().max(low + 1.0);
    let (from, to) = scale.range;
    let x = |at: f64| LEFT + (at - from) / (to - from).max(1e-9) * (WIDTH - LEFT - RIGHT);
    let y = |us: f64| HEIGHT - BELOW - (us.log10() - low) / (high - low) * (HEIGHT - BELOW - ABOVE);
    let mut svg = open(title, HEIGHT);
    for decade in low as i32..=high as i32 {
        let us = 10f64.powi(decade);
        rule(&mut svg, y(us));
        text(&mut svg, (LEFT - 6.0, y(us) + 4.0), "end", &duration(us));
    }
    for (at, word) in &scale.words {
        text(&mut svg, (x(*at), HEIGHT - BELOW + 16.0), "middle", word);
    }
    text(&mut svg, ((LEFT + WIDTH) / 2.0, HEIGHT - 6.0), "middle", scale.label);
    for Curve { name, colour, points } in curves {
        let place = |point: &(f64, f64)| format!("{:.1},{:.1}", x(point.0), y(point.1));
        let places: Vec<String> = points.iter().filter(|point| point.1 > 0.0).map(place).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"><title>{}</title></polyline>",
            places.join(" "),
            escape(name)
        );
        for point in points.iter().filter(|point| point.1 > 0.0) {
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {}</title></circle>",
                x(point.0),
                y(point.1),
                escape(name),
                duration(point.1)
            );
        }
    }
    svg + "</svg>\n"
}

/// Bars from zero, the longest as long as there is room; a thin line shows the spread. Empty when there is nothing.
pub(super) fn bars(title: &str, show: impl Fn(f64) -> String, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.most).fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let length = |value: f64| value / most * (WIDTH - BAR_NAME - BAR_FIGURE);
    let mut svg = open(title, ABOVE + BAR * bars.len() as f64 + 8.0);
    for (index, bar) in bars.iter().enumerate() {
        let top = ABOVE + BAR * index as f64;
        let middle = top + BAR / 2.0 - 2.0;
        text(&mut svg, (BAR_NAME - 8.0, middle + 4.0), "end", &bar.name);
        let _ = writeln!(
            svg,
            "<rect x=\"{BAR_NAME}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"><title>{} ({} to \
             {})</title></rect>",
            length(bar.median),
            BAR - 6.0,
            bar.colour,
            show(bar.median),
            show(bar.least),
            show(bar.most)
        );
        let (from, to) = (BAR_NAME + length(bar.least), BAR_NAME + length(bar.most));
        let _ = writeln!(
            svg,
            "<line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" class=\"spread\"/>"
        );
        text(&mut svg, (to + 8.0, middle + 4.0), "start", &show(bar.median));
    }
    svg + "</svg>\n"
}

/// Names beside their colours.
pub(super) fn legend(curves: &[Curve]) -> String {
    let mut html = String::from("<p class=\"legend\">");
    for Curve { name, colour, .. } in curves {
        let _ = write!(html, "<span><i style=\"background:{colour}\"></i>{}</span>", escape(name));
    }
    html + "</p>\n"
}

/// Text that cannot end the element or the attribute it stands in.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Microseconds as people say them.
fn duration(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", digits(us / 1e6)),
        us if us >= 1e3 => format!("{} ms", digits(us / 1e3)),
        us => format!("{} us", digits(us)),
    }
}

fn digits(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn open(title: &str, height: f64) -> String {
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n",
        escape(title)
    );
    let _ = writeln!(svg, "<text x=\"0\" y=\"16\" class=\"title\">{}</text>", escape(title));
    svg
}

fn rule(svg: &mut String, y: f64) {
    let end = WIDTH - RIGHT;
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\" class=\"rule\"/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(text)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(f64, f64)]) -> Curve {
        Curve { name: "<a & b>".into(), colour: "#000", points: points.to_vec() }
    }

    /// A point outside of its plot, or an element that never ends, is a report that lies or does not open; and a server's
    /// own words must not become markup.
    #[test]
    fn everything_lies_inside_and_is_closed() {
        let scale = Scale { label: "s", range: (0.0, 4.0), words: vec![(2.0, "two".into())] };
        let drawn =
            [curve(&[(0.0, 0.5), (2.0, 1e4), (4.0, 3e7)]), curve(&[(1.0, 0.0), (3.0, 12.0)])];
        let bar = |median| Bar {
            name: "x".into(),
            colour: "#000",
            median,
            least: median / 2.0,
            most: median * 2.0,
        };
        let drawings = [
            curves("latency", &scale, &drawn),
            bars("rate", |value| format!("{value:.0}"), &[bar(10.0), bar(1e6)]),
        ];
        for svg in &drawings {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(svg.starts_with("<svg") && svg.trim().ends_with("</svg>"), "{svg}");
            assert!(!svg.contains("<a & b>"), "{svg}");
            for (name, most) in [("cx=\"", WIDTH), ("cy=\"", HEIGHT), ("width=\"", WIDTH)] {
                for part in svg.split(name).skip(1) {
                    let value: f64 = part.split('"').next().unwrap().parse().unwrap();
                    assert!((0.0..=most).contains(&value), "{name}{value}");
                }
            }
        }
        // The point at zero has no place; the others have one each.
        assert_eq!(drawings[0].matches("<circle").count(), 4);
        assert_eq!(curves("none", &scale, &[curve(&[])]), "");
        assert_eq!(bars("none", |_| String::new(), &[]), "");
        assert_eq!([0.5, 250.0, 1e3, 1.5e6].map(duration), ["0.5 us", "250 us", "1 ms", "1.5 s"]);
    }
}
