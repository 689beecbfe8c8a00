//! Numbers as people read them, in plain ASCII.

/// Bytes with a binary unit: `999 B`, `1.2 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // Tenths of a unit, in integers: no rounding up to "1024.0 KiB".
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10 * 1024 {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A round-trip time from microseconds: `0.85 ms`, `12.3 ms`.
pub(crate) fn rtt(microseconds: u64) -> String {
    match microseconds {
        0..10_000 => format!("{}.{:02} ms", microseconds / 1000, microseconds % 1000 / 10),
        _ => format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100),
    }
}

/// A span from seconds: `42 s`, `3 m 20 s`, `2 h 5 m`, `4 d 3 h`.
pub(crate) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if seconds < 60 => format!("{seconds} s"),
        () if minutes < 60 => format!("{minutes} m {} s", seconds % 60),
        () if hours < 24 => format!("{hours} h {} m", minutes % 60),
        () => format!("{days} d {} h", hours % 24),
    }
}

/// A point in time from milliseconds since a start: `0.35 s`, `12.1 s`, then as [`span`].
pub(crate) fn since_start(milliseconds: u64) -> String {
    match milliseconds {
        0..10_000 => format!("{}.{:02} s", milliseconds / 1000, milliseconds % 1000 / 10),
        10_000..60_000 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        _ => span(milliseconds / 1000),
    }
}

/// `text` without control characters: names of hardware and messages of other machines must not
/// steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_read_well() {
        for (count, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (1024 * 1024, "1.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), want);
        }
        for (us, want) in
            [(0, "0.00 ms"), (850, "0.85 ms"), (9_999, "9.99 ms"), (12_345, "12.3 ms")]
        {
            assert_eq!(rtt(us), want);
        }
        for (s, want) in [(59, "59 s"), (200, "3 m 20 s"), (7_500, "2 h 5 m"), (356_400, "4 d 3 h")]
        {
            assert_eq!(span(s), want);
        }
        assert_eq!(since_start(350), "0.35 s");
        assert_eq!(since_start(12_150), "12.1 s");
        assert_eq!(since_start(61_000), "1 m 1 s");
    }

    proptest! {
        #[test]
        fn every_number_is_short_and_every_text_is_tame(count: u64, text: String) {
            prop_assert!(bytes(count).len() <= 10);
            prop_assert!(!clean(&text).contains(char::is_control));
        }
    }
}
