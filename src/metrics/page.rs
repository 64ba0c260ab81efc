//! A page of metrics in the OpenMetrics text format: each with its name, its unit and what it means.

use prometheus_client::encoding::text;
use prometheus_client::registry::{Registry, Unit};

use crate::count::{Counts, Levels};
use crate::spread::Spread;

/// The page's media type (OpenMetrics 1.0).
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is on a page. A metric is shown as it is when the page is written.
#[derive(Debug)]
pub struct Page(Registry);

/// What a level is measured in; the unit ends its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum In {
    /// Things, which need no unit.
    Things,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

impl Page {
    /// Nothing yet; every name will begin with `prefix` and `_`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self(Registry::with_prefix(prefix))
    }

    /// Adds a count; its name ends in `_total` on the page.
    pub fn counts(&mut self, name: &str, help: &str, counts: &Counts) {
        self.0.register(name, help, counts.clone());
    }

    /// Adds a level.
    pub fn levels(&mut self, name: &str, unit: In, help: &str, levels: &Levels) {
        match unit {
            In::Things => self.0.register(name, help, levels.clone()),
            In::Seconds => self.0.register_with_unit(name, help, Unit::Seconds, levels.clone()),
            In::Bytes => self.0.register_with_unit(name, help, Unit::Bytes, levels.clone()),
        }
    }

    /// Adds a spread of times; its name ends in `_seconds`.
    pub fn times(&mut self, name: &str, help: &str, spread: &Spread) {
        self.0.register_with_unit(name, help, Unit::Seconds, spread.clone());
    }

    /// Adds a spread of numbers of things.
    pub fn sizes(&mut self, name: &str, help: &str, spread: &Spread) {
        self.0.register(name, help, spread.clone());
    }

    /// The page as it is now.
    #[must_use]
    pub fn text(&self) -> String {
        let mut page = String::new();
        // Writing into memory does not fail; if it ever did, a page that ends early is no page to its reader.
        if text::encode(&mut page, &self.0).is_err() {
            page.clear();
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::Label;

    #[test]
    fn a_page_says_what_it_shows() {
        let (mut page, counts) =
            (Page::new("pt"), Counts::new(Label { name: "side", values: &["a", "b"] }));
        let (level, spread) = (Levels::one(), Spread::new(&[500_000]));
        page.counts("calls", "Calls", &counts);
        page.levels("size", In::Bytes, "Size", &level);
        page.times("took", "Took", &spread);
        counts.count("b");
        level.put(Some(2.5));
        spread.took(std::time::Duration::from_secs(1));
        let text = page.text();
        for line in [
            "# HELP pt_calls Calls.",
            "# TYPE pt_calls counter",
            "pt_calls_total{side=\"a\"} 0",
            "pt_calls_total{side=\"b\"} 1",
            "# UNIT pt_size_bytes bytes",
            "pt_size_bytes 2.5",
            "pt_took_seconds_bucket{le=\"0.5\"} 0",
            "pt_took_seconds_bucket{le=\"+Inf\"} 1",
            "pt_took_seconds_sum 1.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
        }
    }
}
