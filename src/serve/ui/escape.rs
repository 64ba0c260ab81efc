//! How every value gets into a page: markup as text, and characters that hide or reorder text spelled out.

use std::fmt::{self, Write};

use askama::filters::Escaper;
use protem_verify::names::unprintable;

/// The escaper of all templates. It is named in `.askama.toml`, so that no template can forget it.
#[derive(Clone, Copy, Debug)]
pub struct Html;

impl Escaper for Html {
    fn write_escaped_str<W: Write>(&self, mut dest: W, string: &str) -> fmt::Result {
        for letter in string.chars() {
            match letter {
                '&' => dest.write_str("&amp;")?,
                '<' => dest.write_str("&lt;")?,
                '>' => dest.write_str("&gt;")?,
                '"' => dest.write_str("&#34;")?,
                '\'' => dest.write_str("&#39;")?,
                // A reader sees that it is there, and it moves nothing (Trojan Source, ANSI escapes).
                letter if unprintable(letter) => write!(dest, "{}", letter.escape_unicode())?,
                letter => dest.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let mut out = String::new();
        Html.write_escaped_str(&mut out, text).unwrap();
        assert_eq!(out, expect);
    }

    #[test]
    fn attack_xss_bidi_ansi_in_reason() {
        check("INC-42: refund, as agreed", "INC-42: refund, as agreed");
        check("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;");
        check("\" onfocus='x' a=\"&", "&#34; onfocus=&#39;x&#39; a=&#34;&amp;");
        check("a\u{202e}b\u{1b}[2J\u{200b}\nc", "a\\u{202e}b\\u{1b}[2J\\u{200b}\\u{a}c");
    }
}
