//! The users' table of errors and the enumeration say the same.

use wire::ErrorCode;

#[test]
fn the_documented_table_is_the_enumeration() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ERRORS.md");
    let text = std::fs::read_to_string(path).unwrap();
    let documented: Vec<(String, String, String)> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<_> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
            (cells[1].trim_matches('`').to_owned(), cells[2].clone(), cells[3].clone())
        })
        .collect();
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let enumerated: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| {
            let retry = if code.is_transient() { "yes" } else { "no" }.to_owned();
            (code.name().to_owned(), yes_no(code.may_have_happened()), retry)
        })
        .collect();
    assert_eq!(documented, enumerated);
}

#[test]
fn numbers_are_codes_and_back() {
    for &code in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_u16(code as u16), Some(code));
        assert_eq!(code.to_string(), code.name());
    }
    assert_eq!(ErrorCode::from_u16(0), None);
    assert_eq!(ErrorCode::from_u16(u16::MAX), None);
}
