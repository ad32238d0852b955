//! Metrics in Prometheus' text format.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One line.
pub(crate) struct Sample<'a> {
    pub(crate) name: &'a str,
    pub(crate) labels: BTreeMap<&'a str, String>,
    pub(crate) value: f64,
}

/// Every line that can be read.
pub(crate) fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(after) = rest.strip_prefix('{') {
        rest = after;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (mut value, mut escaped, mut length) = (String::new(), false, None);
            for (at, character) in after.char_indices() {
                match character {
                    '"' if !escaped => {
                        length = Some(at);
                        break;
                    }
                    '\\' if !escaped => escaped = true,
                    _ => {
                        value.push(character);
                        escaped = false;
                    }
                }
            }
            labels.insert(label, value);
            rest = after.get(length? + 1..)?.trim_start_matches(',');
        }
        rest = rest.strip_prefix('}')?;
    }
    Some(Sample { name, labels, value: rest.split_whitespace().next()?.parse().ok()? })
}

/// How many observations were at most so many seconds, whatever their labels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram(BTreeMap<u64, f64>);

impl Histogram {
    /// The sum of the series of a metric for which `counts` holds.
    pub(crate) fn of(text: &str, metric: &str, counts: impl Fn(&BTreeMap<&str, String>) -> bool) -> Self {
        let mut buckets = BTreeMap::new();
        for sample in samples(text) {
            let own = sample.name.strip_suffix("_bucket") == Some(metric) && counts(&sample.labels);
            let bound = sample.labels.get("le").and_then(|bound| bound.parse::<f64>().ok()).filter(|_| own);
            if let Some(bound) = bound.filter(|bound| *bound >= 0.0) {
                // Those that are not negative are in the order of their bits.
                *buckets.entry(bound.to_bits()).or_default() += sample.value;
            }
        }
        Self(buckets)
    }

    /// What has been observed since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let added =
            |(bound, count): (&u64, &f64)| (*bound, count - before.0.get(bound).copied().unwrap_or_default());
        Self(self.0.iter().map(added).collect())
    }

    /// Seconds that this part of the observations did not exceed, evenly distributed within a bucket; `None` without
    /// any observation.
    pub(crate) fn quantile(&self, part: f64) -> Option<f64> {
        let rank = self.0.values().last().copied().filter(|all| *all > 0.0)? * part;
        let (mut lower, mut below) = (0.0, 0.0);
        for (bound, count) in &self.0 {
            let bound = f64::from_bits(*bound);
            if *count >= rank {
                let width = if bound.is_finite() { bound - lower } else { 0.0 };
                return Some(lower + width * (rank - below) / (count - below).max(f64::MIN_POSITIVE));
            }
            (lower, below) = (bound, *count);
        }
        None
    }
}

/// Asks a server on this machine for its metrics, `http://host:port/path`.
pub(crate) async fn fetch(url: &str) -> anyhow::Result<String> {
    let (host, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .with_context(|| format!("{url:?} is no http://host:port/path"))?;
    let mut stream = TcpStream::connect(host).await.with_context(|| format!("nobody listens at {url}"))?;
    // Of version 1.0, so that the answer ends where the connection does.
    stream.write_all(format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{url} answers nothing"))?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        bail!("{url} answers {status}");
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_may_hold_anything() {
        let text = "# TYPE a counter\na{x=\"1,}\\\"\",y=\"\"} 3\nb 2.5\nbroken{\n";
        let read: Vec<_> = samples(text).map(|sample| (sample.name, sample.labels, sample.value)).collect();
        let labels = BTreeMap::from([("x", "1,}\"".to_owned()), ("y", String::new())]);
        assert_eq!(read, [("a", labels, 3.0), ("b", BTreeMap::new(), 2.5)]);
    }

    #[test]
    fn quantiles_are_those_of_what_was_added() {
        let text = |counts: [u32; 3]| {
            let [low, middle, all] = counts;
            format!(
                "t_bucket{{c=\"a\",le=\"0.1\"}} {low}\nt_bucket{{c=\"a\",le=\"0.2\"}} {middle}\n\
                 t_bucket{{c=\"a\",le=\"+Inf\"}} {all}\nt_bucket{{c=\"b\",le=\"0.1\"}} 99\nt_count 7\n"
            )
        };
        let of = |counts| Histogram::of(&text(counts), "t", |labels| labels["c"] == "a");
        let added = of([5, 20, 20]).since(&of([5, 10, 10]));
        assert!((added.quantile(0.5).unwrap() - 0.15).abs() < 1e-9);
        assert!(of([5, 10, 10]).since(&of([5, 10, 10])).quantile(0.5).is_none());
        assert!((of([0, 0, 4]).quantile(0.99).unwrap() - 0.2).abs() < 1e-9, "beyond the last bound");
    }
}
