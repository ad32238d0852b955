//! Resource quantities: reading, comparing and the one form in which the API server stores each.

/// What a quantity was written in; it decides the suffix of the canonical form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Format {
    Decimal,
    Exponent,
    Binary,
}

/// A quantity as a number of billionths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantity {
    nano: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// Reads a quantity; `None` when it is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at_checked(end)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
        let (binary, exponent, format) = scale(suffix)?;
        let power = exponent.checked_add(9)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        let scaled = mantissa.checked_mul(1024_i128.checked_pow(binary)?)?;
        let nano = if power >= 0 {
            scaled.checked_mul(10_i128.checked_pow(power.unsigned_abs())?)?
        } else {
            let divisor = 10_i128.checked_pow(power.unsigned_abs())?;
            scaled / divisor + i128::from(scaled % divisor != 0)
        };
        Some(Self { nano: if negative { -nano } else { nano }, format })
    }

    /// The quantity in billionths, for comparing and adding.
    pub(crate) const fn nano(self) -> i128 {
        self.nano
    }

    /// Whether it is a whole number.
    pub(crate) const fn is_integer(self) -> bool {
        self.nano % NANO == 0
    }

    /// The canonical text after rounding up to thousandths; `None` when the quantity has nothing finer.
    pub(crate) fn rounded_to_milli(self) -> Option<String> {
        let milli = NANO / 1000;
        let rest = self.nano.rem_euclid(milli);
        (rest != 0).then(|| Self { nano: self.nano - rest + milli, format: self.format }.canonical())
    }

    /// The text in which the API server writes the quantity.
    pub(crate) fn canonical(self) -> String {
        if self.nano == 0 {
            return "0".to_owned();
        }
        let small = self.nano.abs() < 1024 * NANO;
        if self.format == Format::Binary && !small && self.is_integer() {
            return binary_text(self.nano / NANO);
        }
        let (mut mantissa, mut exponent) = (self.nano, -9_i32);
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        while exponent.rem_euclid(3) != 0 {
            mantissa *= 10;
            exponent -= 1;
        }
        match (self.format, exponent) {
            (_, 0) => mantissa.to_string(),
            (Format::Exponent, _) => format!("{mantissa}e{exponent}"),
            (_, _) => format!("{mantissa}{}", decimal_suffix(exponent)),
        }
    }
}

/// The canonical form of a quantity's text.
pub(crate) fn canonical(text: &str) -> Option<String> {
    Quantity::parse(text).map(Quantity::canonical)
}

fn binary_text(number: i128) -> String {
    let suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut number = number;
    let mut steps = suffixes.iter().peekable();
    let mut suffix = "";
    while let Some(next) = steps.next() {
        suffix = next;
        if number % 1024 != 0 || steps.peek().is_none() {
            break;
        }
        number /= 1024;
    }
    format!("{number}{suffix}")
}

const fn decimal_suffix(exponent: i32) -> &'static str {
    match exponent {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        18 => "E",
        _ => "",
    }
}

/// A suffix as a power of 1024 and a power of ten.
fn scale(suffix: &str) -> Option<(u32, i32, Format)> {
    let decimal = |exponent| Some((0, exponent, Format::Decimal));
    let binary = |power| Some((power, 0, Format::Binary));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => Some((0, suffix.strip_prefix(['e', 'E'])?.parse().ok()?, Format::Exponent)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_stored_in_their_canonical_form() {
        for (written, stored) in [
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("100Mi", "100Mi"),
            ("-1", "-1"),
            ("0", "0"),
            ("0Gi", "0"),
            ("1e3", "1e3"),
            ("128974848", "128974848"),
        ] {
            assert_eq!(canonical(written).as_deref(), Some(stored), "{written}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "1zz", "a", "1.2.3", ".", "1 "] {
            assert!(Quantity::parse(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_the_same_quantity(number in 0_i64..1_000_000_000, suffix in "(|m|k|M|G|Ki|Mi|Gi)") {
            let text = format!("{number}{suffix}");
            let read = Quantity::parse(&text).unwrap();
            let again = Quantity::parse(&read.canonical()).unwrap();
            prop_assert_eq!(read.nano(), again.nano());
            prop_assert_eq!(again.canonical(), read.canonical());
        }
    }
}
