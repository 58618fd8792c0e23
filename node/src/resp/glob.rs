//! Glob patterns as KEYS, SCAN and CONFIG GET match them.
//!
//! `*` any run of bytes, `?` one byte, `[abc]`, `[a-z]` and `[^a]` one of a class, `\x` the byte
//! itself. The odd corners are Redis's (`stringmatchlen`): a class that is not closed ends with
//! the pattern and matches against what it held; a range may be written in either direction; a
//! backslash at the very end of the pattern stands for itself.
//!
//! Redis matches a star by recursion, which takes exponential time for patterns such as
//! `a*a*a*a*b`. Here the classic argument applies: when a later star has been reached, an earlier
//! one never needs another try, because whatever it could match differently the later one can
//! absorb. So one remembered position suffices, and a match costs at most pattern × text steps.

/// Whether `text` matches `pattern`.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern_at, mut text_at) = (0, 0);
    // The position behind the last star, and where its run of text would end next.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if let Some(b'*') = pattern.get(pattern_at) {
            pattern_at += 1;
            if pattern_at == pattern.len() {
                return true;
            }
            star = Some((pattern_at, text_at));
            continue;
        }
        let matched = match text.get(text_at) {
            None if pattern_at == pattern.len() => return true,
            None => return false,
            Some(byte) => one(&pattern[pattern_at..], *byte),
        };
        if let Some(length) = matched {
            pattern_at += length;
            text_at += 1;
        } else if let Some((behind, run_end)) = star {
            star = Some((behind, run_end + 1));
            (pattern_at, text_at) = (behind, run_end + 1);
        } else {
            return false;
        }
    }
}

/// The same for a lower case `text` and a pattern in any case.
#[must_use]
pub(super) fn matches_any_case(pattern: &[u8], text: &[u8]) -> bool {
    matches(&pattern.to_ascii_lowercase(), text)
}

/// Matches `byte` against the element that `pattern` starts with: the element's length, or none.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => class(rest, byte).map(|length| length + 1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

/// A class behind its opening bracket: its length, the closing bracket included, if it matches.
fn class(class: &[u8], byte: u8) -> Option<usize> {
    let (inverted, start) = if class.first() == Some(&b'^') { (true, 1) } else { (false, 0) };
    let (mut at, mut found) = (start, false);
    loop {
        match &class[at..] {
            [] => break,
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [from, b'-', to, ..] => {
                let (low, high) = (*from.min(to), *from.max(to));
                found |= (low..=high).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= *literal == byte;
                at += 1;
            }
        }
    }
    (found != inverted).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn elements_and_corners() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a**c", "ac", true),
            ("?", "", false),
            ("h?llo", "hello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hallo", true),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("[]", "a", false),
            ("[^]", "a", true),
            ("[abc", "b", true),
            ("[a-", "-", true),
            ("[\\]]", "]", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("a\\", "a\\", true),
            ("*ab*ab*", "xxabyyabzz", true),
            ("*abc", "ababc", true),
            ("user:*:name", "user:7:name", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = b"a*".repeat(200);
        let pattern = [&pattern[..], b"b"].concat();
        assert!(!matches(&pattern, &b"a".repeat(5000)));
    }

    /// The definition, by recursion.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| model(rest, &text[skip..])),
            ([], _) => text.is_empty(),
            (_, [byte, text @ ..]) => {
                one(pattern, *byte).is_some_and(|length| model(&pattern[length..], text))
            }
            (_, []) => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            pattern in "[ab*?\\[\\]^\\\\-]{0,10}",
            text in "[ab\\]-]{0,10}",
        ) {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(pattern, text), model(pattern, text));
        }
    }
}
