//! Amounts of resources: `250m`, `1Gi`, `1e3`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The amount in thousandths, rounded up; `None` when the text is no quantity.
pub(crate) fn milli(text: &str) -> Option<i64> {
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let factor = match suffix {
        "" => 1e3,
        "n" => 1e-6,
        "u" => 1e-3,
        "m" => 1.0,
        "k" => 1e6,
        "M" => 1e9,
        "G" => 1e12,
        "T" => 1e15,
        "P" => 1e18,
        "E" => 1e21,
        "Ki" => 1e3 * 1024.0,
        "Mi" => 1e3 * 1024_f64.powi(2),
        "Gi" => 1e3 * 1024_f64.powi(3),
        "Ti" => 1e3 * 1024_f64.powi(4),
        "Pi" => 1e3 * 1024_f64.powi(5),
        "Ei" => 1e3 * 1024_f64.powi(6),
        exponent => 1e3 * 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    number.parse::<f64>().ok().map(|number| (number * factor).ceil() as i64)
}

/// The amount of `name` in `amounts`, in thousandths; zero when absent.
pub(crate) fn of(amounts: Option<&BTreeMap<String, Quantity>>, name: &str) -> i64 {
    amounts.and_then(|amounts| amounts.get(name)).and_then(|amount| milli(&amount.0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::milli;

    #[test]
    fn quantities_are_read_in_thousandths() {
        let rows = [
            ("250m", Some(250)),
            ("1", Some(1000)),
            ("1.5", Some(1500)),
            ("1Ki", Some(1_024_000)),
            ("2k", Some(2_000_000)),
            ("1e3", Some(1_000_000)),
            ("1n", Some(1)),
            ("", None),
            ("x", None),
        ];
        for (text, expected) in rows {
            assert_eq!(milli(text), expected, "{text}");
        }
    }
}
