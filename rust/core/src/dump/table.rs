//! Comma-separated lines whose cells may hold commas inside quotes or brackets.

/// The cells of one line. Brackets shield commas, as in `(1, 2)`; where they don't pair up, every comma splits.
pub(crate) fn cells(line: &str) -> Vec<String> {
    split(line, true).or_else(|| split(line, false)).unwrap_or_default()
}

fn split(line: &str, shielded: bool) -> Option<Vec<String>> {
    let mut cells = vec![String::new()];
    let (mut depth, mut quoted) = (0usize, false);
    let mut chars = line.trim_end_matches(['\r', '\n']).chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // A doubled quote inside quotes is one quote.
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cells.last_mut()?.push('"');
                continue;
            }
            '"' => {
                quoted = !quoted;
                continue;
            }
            '(' | '[' if shielded && !quoted => depth += 1,
            ')' | ']' if shielded && !quoted => depth = depth.checked_sub(1)?,
            ',' if !quoted && depth == 0 => {
                cells.push(String::new());
                continue;
            }
            _ => {}
        }
        cells.last_mut()?.push(c);
    }
    (depth == 0).then_some(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_quotes_and_brackets_stay() {
        assert_eq!(cells("a,\"(1, 2)\",(0.5,-1.0),x\r\n"), ["a", "(1, 2)", "(0.5,-1.0)", "x"]);
        assert_eq!(cells("a,,\"say \"\"x\"\"\""), ["a", "", "say \"x\""]);
        assert_eq!(cells("odd(,name"), ["odd(", "name"]);
    }
}
