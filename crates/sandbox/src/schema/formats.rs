//! The `format`s of text that the API server checks; it ignores all others, `int32` among them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;

/// One format, with the name as the schema writes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Format {
    pub(super) name: String,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    DateTime,
    Date,
    Duration,
    Byte,
    Uri,
    Email,
    Hostname,
    Ipv4,
    Ipv6,
    Cidr,
    Mac,
    Uuid,
    Uuid3,
    Uuid4,
    Uuid5,
    Isbn10,
    Isbn13,
    Isbn,
    CreditCard,
    Ssn,
    HexColor,
    RgbColor,
    ObjectId,
    Password,
    ShortName,
    LongName,
}

impl Format {
    /// The format of that name, if the API server knows it; dashes do not count.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let kind = match name.replace('-', "").as_str() {
            "datetime" => Kind::DateTime,
            "date" => Kind::Date,
            "duration" => Kind::Duration,
            "byte" => Kind::Byte,
            "uri" => Kind::Uri,
            "email" => Kind::Email,
            "hostname" => Kind::Hostname,
            "ipv4" => Kind::Ipv4,
            "ipv6" => Kind::Ipv6,
            "cidr" => Kind::Cidr,
            "mac" => Kind::Mac,
            "uuid" => Kind::Uuid,
            "uuid3" => Kind::Uuid3,
            "uuid4" => Kind::Uuid4,
            "uuid5" => Kind::Uuid5,
            "isbn10" => Kind::Isbn10,
            "isbn13" => Kind::Isbn13,
            "isbn" => Kind::Isbn,
            "creditcard" => Kind::CreditCard,
            "ssn" => Kind::Ssn,
            "hexcolor" => Kind::HexColor,
            "rgbcolor" => Kind::RgbColor,
            "bsonobjectid" => Kind::ObjectId,
            "password" => Kind::Password,
            "k8sshortname" => Kind::ShortName,
            "k8slongname" => Kind::LongName,
            _ => return None,
        };
        Some(Self { name: name.to_owned(), kind })
    }

    /// True if the text has this format.
    pub(super) fn accepts(&self, text: &str) -> bool {
        match self.kind {
            Kind::DateTime => date_time(text),
            Kind::Date => date(text),
            Kind::Duration => duration(text),
            Kind::Byte => !text.is_empty() && STANDARD.decode(text).is_ok(),
            Kind::Uri => uri(text),
            Kind::Email => email(text),
            Kind::Hostname => hostname(text),
            Kind::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Kind::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Kind::Cidr => cidr(text),
            Kind::Mac => matches(&MAC, text),
            Kind::Uuid => matches(&UUID, text),
            Kind::Uuid3 => matches(&UUID, text) && uuid_version(text, &['3'], false),
            Kind::Uuid4 => matches(&UUID, text) && uuid_version(text, &['4'], true),
            Kind::Uuid5 => matches(&UUID, text) && uuid_version(text, &['5'], true),
            Kind::Isbn10 => isbn10(text),
            Kind::Isbn13 => isbn13(text),
            Kind::Isbn => isbn10(text) || isbn13(text),
            Kind::CreditCard => credit_card(text),
            Kind::Ssn => matches(&SSN, text),
            Kind::HexColor => matches(&HEX_COLOR, text),
            Kind::RgbColor => matches(&RGB_COLOR, text),
            Kind::ObjectId => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
            Kind::Password => true,
            Kind::ShortName => text.len() <= 63 && label(text),
            Kind::LongName => text.len() <= 253 && text.split('.').all(label),
        }
    }
}

macro_rules! pattern {
    ($name:ident, $text:expr) => {
        static $name: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new($text).ok());
    };
}

fn matches(pattern: &LazyLock<Option<Regex>>, text: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

pattern!(TIME, r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$");
pattern!(DURATION, r"^[-+]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)$");
pattern!(LOOSE_DURATION, r"(?i)((\d+)\s*([A-Za-zµ]+))");
pattern!(MAC, r"^(([0-9A-Fa-f]{2}([:-])){5,7}[0-9A-Fa-f]{2}|([0-9A-Fa-f]{4}\.){2,3}[0-9A-Fa-f]{4})$");
pattern!(UUID, r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$");
pattern!(SSN, r"^\d{3}[- ]?\d{2}[- ]?\d{4}$");
pattern!(HEX_COLOR, r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$");
pattern!(
    RGB_COLOR,
    r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$"
);
pattern!(
    HOST,
    r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9\-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$"
);
pattern!(
    CARD,
    r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|(222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11}|6[27][0-9]{14})$"
);

fn date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

fn date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let Some((day, rest)) = lower.split_once('t') else { return false };
    let time = rest.split('t').next().unwrap_or_default();
    let Some(parts) = TIME.as_ref().and_then(|pattern| pattern.captures(time)) else { return false };
    let at_most = |group: usize, limit: &str| parts.get(group).is_some_and(|part| part.as_str() <= limit);
    date(day) && at_most(1, "23") && at_most(2, "59") && at_most(3, "59")
}

fn duration(text: &str) -> bool {
    const UNITS: [&str; 7] = ["nano", "micro", "milli", "sec", "min", "hour", "day"];
    const SHORT: [&str; 12] = ["ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w", "wk", "hrs"];
    if matches(&DURATION, text) {
        return true;
    }
    let Some(loose) = LOOSE_DURATION.as_ref() else { return false };
    loose.captures_iter(text).any(|found| {
        let unit = found.get(3).map(|unit| unit.as_str().to_lowercase()).unwrap_or_default();
        SHORT.contains(&unit.as_str())
            || UNITS.iter().any(|name| unit.starts_with(name))
            || unit.starts_with("week")
    })
}

fn uri(text: &str) -> bool {
    if text.starts_with('/') {
        return !text.contains(|letter: char| letter.is_control() || letter == ' ');
    }
    text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter))
            && !rest.is_empty()
            && !rest.contains(|letter: char| letter.is_control() || letter == ' ')
    })
}

fn email(text: &str) -> bool {
    let address = text.rsplit_once('<').map_or(text, |(_, address)| address.strip_suffix('>').unwrap_or(""));
    address.rsplit_once('@').is_some_and(|(local, domain)| {
        let plain = |letter: char| !letter.is_whitespace() && !"<>()[],;:\\\"".contains(letter);
        !local.is_empty()
            && !domain.is_empty()
            && local.chars().all(plain)
            && domain.chars().all(|one| one != '@' && plain(one))
    })
}

fn hostname(text: &str) -> bool {
    matches(&HOST, text) && text.len() <= 255 && text.split('.').all(|part| part.len() <= 63)
}

fn cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, bits)| {
        let longest = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= longest)
    })
}

fn uuid_version(text: &str, versions: &[char], variant: bool) -> bool {
    let digits: Vec<char> = text.chars().filter(|letter| *letter != '-').collect();
    digits.get(12).is_some_and(|digit| versions.contains(digit))
        && (!variant || digits.get(16).is_some_and(|digit| "89abAB".contains(*digit)))
}

fn digits(text: &str) -> Vec<u32> {
    text.chars()
        .filter(|letter| !" -".contains(*letter))
        .map(|letter| letter.to_digit(10).unwrap_or(99))
        .collect()
}

fn isbn10(text: &str) -> bool {
    let body: String = text.chars().filter(|letter| !" -".contains(*letter)).collect();
    let (head, last) = body.split_at(body.len().saturating_sub(1).min(9));
    let check = match last {
        "X" => 10,
        digit => digit.parse::<u32>().unwrap_or(99),
    };
    let head = digits(head);
    head.len() == 9
        && check <= 10
        && head.iter().all(|digit| *digit < 10)
        && (head.iter().zip(1..).map(|(digit, weight)| digit * weight).sum::<u32>() + 10 * check) % 11 == 0
}

fn isbn13(text: &str) -> bool {
    let all = digits(text);
    all.len() == 13
        && all.iter().all(|digit| *digit < 10)
        && all.iter().zip([1, 3].into_iter().cycle()).map(|(digit, weight)| digit * weight).sum::<u32>() % 10
            == 0
}

fn credit_card(text: &str) -> bool {
    let number: String = text.chars().filter(char::is_ascii_digit).collect();
    let sum: u32 = number
        .chars()
        .rev()
        .filter_map(|letter| letter.to_digit(10))
        .enumerate()
        .map(|(at, digit)| if at % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 })
        .sum();
    matches(&CARD, &number) && sum.is_multiple_of(10)
}

fn label(text: &str) -> bool {
    let inner = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    !text.is_empty() && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}
