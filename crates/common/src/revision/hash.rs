//! The two FNV hashes that names and agents' hashes are made of.

const OFFSET: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1, 32 bit.
pub fn fnv1(parts: &[&[u8]]) -> u32 {
    parts
        .iter()
        .flat_map(|part| part.iter())
        .fold(OFFSET, |hash, byte| hash.wrapping_mul(PRIME) ^ u32::from(*byte))
}

/// FNV-1a, 32 bit, of the text a Go debug printer makes of the bytes: `([]uint8)[` decimals joined by a space `]`.
pub fn fnv1a_of_printed(data: &[u8]) -> u32 {
    let mut text = String::with_capacity(data.len() * 4 + 12);
    text.push_str("([]uint8)[");
    for (index, byte) in data.iter().enumerate() {
        if index > 0 {
            text.push(' ');
        }
        text.push_str(&byte.to_string());
    }
    text.push(']');
    text.bytes().fold(OFFSET, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(PRIME))
}

/// The hash part of a revision's name: FNV-1 of the data and the collision count, in letters that spell no words.
pub fn hash(data: &[u8], collision_count: i32) -> String {
    let number = fnv1(&[data, collision_count.to_string().as_bytes()]);
    safe(&number.to_string())
}

fn safe(digits: &str) -> String {
    digits
        .bytes()
        .filter_map(|byte| SAFE.get(usize::from(byte) % SAFE.len()))
        .map(|byte| char::from(*byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = r#"{"spec":{"template":{"$patch":"replace","metadata":{"creationTimestamp":null,"labels":{"app":"demo"}},"spec":{"containers":[{"image":"nginx:1.0","name":"main","resources":{}}]}}}}"#;

    #[test]
    fn the_hash_of_known_bytes_is_the_references() {
        assert_eq!(fnv1(&[DATA.as_bytes(), b"0"]), 2_706_914_134);
        assert_eq!(hash(DATA.as_bytes(), 0), "6c4bf58578");
        assert_eq!(hash(DATA.as_bytes(), 1), "6c4bf58579");
    }
}
