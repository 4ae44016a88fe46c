//! Quantities on the command line.

/// Reads a number of bytes: `65536`, `64K`, `1M`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    quantity(text, 1024)
}

/// Reads a number of instructions: `2000000`, `2M`.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    quantity(text, 1000)
}

fn quantity(text: &str, kilo: u64) -> Result<u64, String> {
    let (digits, factor) = match text.trim_end_matches(['K', 'k', 'M', 'm']) {
        digits if digits.len() == text.len() => (digits, 1),
        digits if text.len() - digits.len() > 1 => (text, 1),
        digits if text.ends_with(['K', 'k']) => (digits, kilo),
        digits => (digits, kilo * kilo),
    };
    let number = digits.parse().ok().map(|number: f64| number * factor as f64);
    let number = number.filter(|number| *number > 0.0 && *number < u64::MAX as f64);
    let number = number.ok_or_else(|| {
        format!("expected a positive number, optionally with K or M, such as 64K; found `{text}`")
    })?;
    Ok(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_units() {
        assert_eq!(
            [bytes("64K"), bytes("1.5M"), bytes("1m"), bytes("700")],
            [Ok(65_536), Ok(1_572_864), Ok(1 << 20), Ok(700)]
        );
        assert_eq!(count("2M"), Ok(2_000_000));
        for wrong in ["", "K", "64KK", "-1", "64B", "64 K", "0", "1G", "99999999999999999999M"] {
            assert!(bytes(wrong).unwrap_err().contains("such as 64K"), "{wrong}");
        }
    }
}
