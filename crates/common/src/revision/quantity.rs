//! Kubernetes quantities: their value, and the one text the API server would write for them.

use serde_json::Value;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

const NANO: i128 = 1_000_000_000;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn parse(text: &str) -> Option<(i128, Format)> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mut divisor = 10_i128.checked_pow(fraction.len() as u32)?;
    let mut scaled = mantissa.checked_mul(NANO)?;
    let format = if let Some(power) = BINARY.iter().skip(1).position(|unit| *unit == suffix) {
        scaled = scaled.checked_mul(1024_i128.checked_pow(power as u32 + 1)?)?;
        Format::Binary
    } else if let Some(power) = DECIMAL.iter().position(|unit| *unit == suffix) {
        if power >= 3 {
            scaled = scaled.checked_mul(1000_i128.checked_pow(power as u32 - 3)?)?;
        } else {
            divisor = divisor.checked_mul(1000_i128.checked_pow(3 - power as u32)?)?;
        }
        Format::Decimal
    } else {
        let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
        let factor = 10_i128.checked_pow(power.unsigned_abs())?;
        if power >= 0 {
            scaled = scaled.checked_mul(factor)?;
        } else {
            divisor = divisor.checked_mul(factor)?;
        }
        Format::Exponent
    };
    let nanos = scaled / divisor + i128::from(scaled % divisor != 0);
    Some((if negative { -nanos } else { nanos }, format))
}

/// Value of a quantity in billionths, rounded away from zero; `None` if it is not one.
pub(crate) fn nanos(value: &Value) -> Option<i128> {
    parse(&text_of(value)?).map(|(nanos, _)| nanos)
}

/// As [`nanos`], of a text.
pub(crate) fn nanos_of(text: &str) -> Option<i128> {
    parse(text.trim()).map(|(nanos, _)| nanos)
}

/// The API server's text of a quantity: `1000m` is `1`, `1024Mi` is `1Gi`. `None` if it is not a quantity.
pub(crate) fn canonical(value: &Value) -> Option<String> {
    let (nanos, format) = parse(&text_of(value)?)?;
    if nanos == 0 {
        return Some("0".to_owned());
    }
    let small = nanos.abs() < 1024 * NANO;
    if format == Format::Binary && !small {
        let mut value = nanos / NANO + i128::from(nanos % NANO > 0);
        let mut power = 0;
        while value % 1024 == 0 && power + 1 < BINARY.len() {
            value /= 1024;
            power += 1;
        }
        return Some(format!("{value}{}", BINARY.get(power)?));
    }
    let (mut value, mut power) = (nanos, 0);
    while value % 1000 == 0 && power + 1 < DECIMAL.len() {
        value /= 1000;
        power += 1;
    }
    if format == Format::Exponent && power != 3 {
        return Some(format!("{value}e{}", (power as i32 - 3) * 3));
    }
    Some(format!("{value}{}", DECIMAL.get(power)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_written_as_the_api_server_does() {
        for (given, expected) in [
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("0.5", "500m"),
            ("0.5Gi", "512Mi"),
            ("1536Mi", "1536Mi"),
            ("1500M", "1500M"),
            ("2000", "2k"),
            ("128974848", "128974848"),
            ("1e3", "1e3"),
            ("512", "512"),
            ("0", "0"),
        ] {
            assert_eq!(canonical(&json!(given)).as_deref(), Some(expected), "{given}");
        }
        assert_eq!(canonical(&json!(1)).as_deref(), Some("1"));
        assert_eq!(canonical(&json!("one")), None);
    }

    #[test]
    fn quantities_compare_by_value() {
        assert_eq!(nanos(&json!("1Gi")), nanos(&json!("1073741824")));
        assert_ne!(nanos(&json!("1G")), nanos(&json!("1Gi")));
    }
}
