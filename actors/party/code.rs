//! The party code: 55 random bits and a check symbol, as 12 Crockford base32 symbols (`K7QM-2XPA-9DRK`).
//!
//! The check is linear over GF(32): the sum of every symbol times a weight of its own (a power of a primitive element)
//! is zero. One wrong symbol changes the sum because no weight is zero; two symbols that changed places change it because
//! no two weights are equal.

use std::fmt;
use std::str::FromStr;

use rand::RngCore;
use serde::{Deserialize, Serialize};

/// Symbols of a code, the check symbol included.
pub const CODE_SYMBOLS: usize = 12;
const DATA_SYMBOLS: usize = CODE_SYMBOLS - 1;
const CODE_BITS: u32 = DATA_SYMBOLS as u32 * 5;
/// Longest text that is looked at: a code with generous separators.
const MAX_TEXT: usize = 64;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A well-formed party code. Whoever knows it may join, so `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct PartyCode(u64);

/// Why a text is not a party code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    #[error("it has {0} symbols instead of {CODE_SYMBOLS}")]
    Length(usize),
    #[error("the symbol \"{symbol}\" at position {position} does not occur in codes")]
    Symbol { symbol: char, position: usize },
    #[error("it is mistyped somewhere: the check symbol does not match")]
    Check,
    #[error("a number of more than {CODE_BITS} bits is not a code")]
    Bits,
}

impl PartyCode {
    /// A new code. `rng` must be cryptographically strong.
    #[must_use]
    pub fn random(rng: &mut impl RngCore) -> Self {
        Self(rng.next_u64() >> (64 - CODE_BITS))
    }

    /// The 12 symbols without dashes, upper case: what the key derivation takes.
    #[must_use]
    pub fn symbols(&self) -> [u8; CODE_SYMBOLS] {
        self.values().map(|value| ALPHABET[usize::from(value)])
    }

    fn values(&self) -> [u8; CODE_SYMBOLS] {
        let mut values = [0; CODE_SYMBOLS];
        for (index, value) in values.iter_mut().take(DATA_SYMBOLS).enumerate() {
            *value = (self.0 >> (5 * (DATA_SYMBOLS - 1 - index)) & 31) as u8;
        }
        // The check symbol's weight is 1, and subtraction in GF(32) is addition: the missing sum is the check symbol.
        values[DATA_SYMBOLS] = weighted_sum(&values);
        values
    }
}

impl TryFrom<u64> for PartyCode {
    type Error = CodeError;

    fn try_from(bits: u64) -> Result<Self, CodeError> {
        if bits >> CODE_BITS != 0 { Err(CodeError::Bits) } else { Ok(Self(bits)) }
    }
}

impl From<PartyCode> for u64 {
    fn from(code: PartyCode) -> Self {
        code.0
    }
}

impl FromStr for PartyCode {
    type Err = CodeError;

    /// Case, spaces, dashes and look-alikes (O for 0, I and L for 1) are forgiven.
    fn from_str(text: &str) -> Result<Self, CodeError> {
        if text.len() > MAX_TEXT {
            return Err(CodeError::Length(text.chars().count()));
        }
        let mut values = [0; CODE_SYMBOLS];
        let mut count = 0;
        for symbol in text.chars().filter(|symbol| !is_separator(*symbol)) {
            count += 1;
            let value = symbol_value(symbol).ok_or(CodeError::Symbol { symbol, position: count })?;
            if let Some(slot) = values.get_mut(count - 1) {
                *slot = value;
            }
        }
        if count != CODE_SYMBOLS {
            return Err(CodeError::Length(count));
        }
        if weighted_sum(&values) != 0 {
            return Err(CodeError::Check);
        }
        Ok(Self(values[..DATA_SYMBOLS].iter().fold(0, |bits, &value| bits << 5 | u64::from(value))))
    }
}

impl fmt::Display for PartyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, symbol) in self.symbols().into_iter().enumerate() {
            if index > 0 && index % 4 == 0 {
                f.write_str("-")?;
            }
            write!(f, "{}", char::from(symbol))?;
        }
        Ok(())
    }
}

impl fmt::Debug for PartyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PartyCode(…)")
    }
}

/// Messengers turn "-" into other dashes and put in no-break spaces.
fn is_separator(symbol: char) -> bool {
    symbol.is_whitespace() || matches!(symbol, '-' | '_' | '\u{2010}'..='\u{2015}' | '\u{2212}')
}

fn symbol_value(symbol: char) -> Option<u8> {
    let symbol = match symbol.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let byte = u8::try_from(symbol).ok()?;
    ALPHABET.iter().position(|&known| known == byte).map(|value| value as u8)
}

/// Weights α^11 … α^1, α^0 from left to right, evaluated by Horner's rule.
fn weighted_sum(values: &[u8; CODE_SYMBOLS]) -> u8 {
    values.iter().fold(0, |sum, &value| times_alpha(sum) ^ value)
}

/// Multiplication by α = x in GF(32) = GF(2)[x] / (x⁵ + x² + 1).
fn times_alpha(value: u8) -> u8 {
    let shifted = value << 1;
    if shifted & 0b10_0000 == 0 { shifted } else { shifted ^ 0b10_0101 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_of(values: [u8; CODE_SYMBOLS]) -> String {
        values.iter().map(|&value| char::from(ALPHABET[usize::from(value)])).collect()
    }

    /// The code is linear, so an error pattern is caught in every code word if its own weighted sum is not zero.
    #[test]
    fn every_single_error_and_every_transposition_is_caught() {
        for position in 0..CODE_SYMBOLS {
            for error in 1..32 {
                let mut pattern = [0; CODE_SYMBOLS];
                pattern[position] = error;
                assert_ne!(weighted_sum(&pattern), 0);
                for other in 0..position {
                    let mut swapped = pattern;
                    swapped[other] = error;
                    assert_ne!(weighted_sum(&swapped), 0, "{other} and {position} by {error}");
                }
            }
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let code = PartyCode(0x12_3456_789a_bcde);
        let text = code.to_string();
        assert_eq!(text, "4HMA-SW9N-F6YV");
        assert_eq!(text.parse(), Ok(code.clone()));
        assert_eq!(" 4hmasw9n f6yv\n".parse(), Ok(code));
        assert_eq!("4HMA-SW9N-F6Y".parse::<PartyCode>(), Err(CodeError::Length(11)));
        assert_eq!("4HMA-SW9N-F6YW".parse::<PartyCode>(), Err(CodeError::Check));
        assert_eq!("4HMA-SU9N-F6YV".parse::<PartyCode>(), Err(CodeError::Symbol { symbol: 'U', position: 6 }),);
        assert_eq!("".parse::<PartyCode>(), Err(CodeError::Length(0)));
        assert_eq!("0".repeat(65).parse::<PartyCode>(), Err(CodeError::Length(65)));
        assert_eq!("OoIi-lL00-0000".parse::<PartyCode>(), Err(CodeError::Check));
        assert_eq!("OOOO 0000 oooo".parse(), Ok(PartyCode(0)));
        assert_eq!(format!("{:?}", PartyCode(0)), "PartyCode(…)");
    }

    proptest! {
        #[test]
        fn codes_round_trip(bits in 0_u64..1 << CODE_BITS) {
            let code = PartyCode::try_from(bits).unwrap();
            prop_assert_eq!(code.to_string().parse::<PartyCode>(), Ok(code.clone()));
            prop_assert_eq!(code.to_string().to_lowercase().replace('0', "o").replace('1', "l").parse(), Ok(code));
        }

        #[test]
        fn damaged_codes_are_refused(bits in 0_u64..1 << CODE_BITS, at in 0..CODE_SYMBOLS, by in 1_u8..32) {
            let mut values = PartyCode(bits).values();
            values[at] ^= by;
            prop_assert_eq!(text_of(values).parse::<PartyCode>(), Err(CodeError::Check));
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,80}") {
            let _ = text.parse::<PartyCode>();
        }
    }
}
