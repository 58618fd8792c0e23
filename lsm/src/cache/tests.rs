//! How pages and index blocks share the region.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const UNIT: usize = 4096;

fn key(number: u64) -> Key {
    Key { address: number + 1, offset: 0, checksum: number * 77 }
}

fn put(cache: &mut Cache, class: FrameClass, number: u64, len: usize) -> bool {
    let Some(mut frame) = cache.try_frame(class, len) else { return false };
    frame.set_len(len);
    frame[0] = number as u8;
    cache.insert(class, key(number), frame.freeze());
    true
}

/// How many of the pages with these numbers are there.
fn pages(cache: &Cache, numbers: std::ops::Range<u64>) -> usize {
    numbers.filter(|number| cache.contains(FrameClass::Page, &key(*number))).count()
}

/// Pages have all that indexes leave; indexes get their share back, whole, however full of pages
/// it is, and pages what is left of it when indexes go.
#[test]
fn pages_have_what_indexes_leave() {
    let mut cache = Cache::with_units(UNIT, 96, 64, 8);
    for number in 0..500 {
        assert!(put(&mut cache, FrameClass::Page, number, UNIT));
    }
    assert_eq!(pages(&cache, 0..500), 96);
    for number in 1000..1008 {
        assert!(put(&mut cache, FrameClass::Extent, number, 8 * UNIT));
    }
    let indexes = |cache: &Cache| {
        (1000..1100).filter(|number| cache.contains(FrameClass::Extent, &key(*number))).count()
    };
    assert_eq!((indexes(&cache), pages(&cache, 0..500)), (8, 32));
    // More than their share they do not get.
    assert!(put(&mut cache, FrameClass::Extent, 1008, 8 * UNIT));
    assert_eq!((indexes(&cache), pages(&cache, 0..500)), (8, 32));
    for number in 1000..1009 {
        cache.remove(&key(number));
    }
    for number in 500..1000 {
        assert!(put(&mut cache, FrameClass::Page, number, UNIT));
    }
    assert_eq!((indexes(&cache), pages(&cache, 500..1000)), (0, 96));
}

/// Readers that hold pages all over the region do not keep an index out, as long as there is a run
/// of units without them.
#[test]
fn pages_that_are_held_are_passed_over() {
    let mut cache = Cache::with_units(UNIT, 96, 64, 0);
    for number in 0..96 {
        assert!(put(&mut cache, FrameClass::Page, number, UNIT));
    }
    // From the region's end downwards: every tenth unit.
    let held: Vec<Frozen> = (0..96)
        .step_by(10)
        .map(|number| cache.get(FrameClass::Page, &key(number)).unwrap().clone())
        .collect();
    assert!(put(&mut cache, FrameClass::Extent, 1000, 9 * UNIT));
    assert!(cache.contains(FrameClass::Extent, &key(1000)));
    assert!(!put(&mut cache, FrameClass::Extent, 1001, 11 * UNIT), "there is no such run");
    assert!(held.iter().zip((0..96).step_by(10)).all(|(bytes, number)| bytes[0] == number));
}

proptest! {
    /// Items of any sizes together stay within the region, and extents within their share, whatever
    /// is evicted for them; what they do not have is free; what is found is what was put there.
    #[test]
    fn items_of_any_size_share_the_units(
        steps in proptest::collection::vec((0u64..200, 1usize..260_000, 0u8..8), 1..400),
    ) {
        let mut cache = Cache::with_units(UNIT, 192, 128, 64);
        let (mut lens, mut held) = (BTreeMap::new(), Vec::new());
        for (number, len, what) in steps {
            // A number is a page or an extent, always the same.
            let class = if number % 3 == 0 { FrameClass::Extent } else { FrameClass::Page };
            let len = if class == FrameClass::Page { 1 + len % UNIT } else { len };
            match (cache.get(class, &key(number)), what) {
                (Some(_), 0) if class == FrameClass::Extent => cache.remove(&key(number)),
                (Some(bytes), _) => {
                    prop_assert_eq!((bytes.len(), bytes[0]), (lens[&number], number as u8));
                    if what == 1 && held.len() < 4 {
                        held.push((bytes.clone(), number as u8));
                    }
                }
                (None, 2) => drop(held.pop()),
                (None, _) => {
                    if put(&mut cache, class, number, len) {
                        lens.insert(number, len);
                    } else {
                        prop_assert!(!held.is_empty(), "only readers keep what it would take");
                    }
                }
            }
            prop_assert!(held.iter().all(|(bytes, mark)| bytes[0] == *mark));
            let (pages, extents) = (cache.pages.units(), cache.extents.units());
            prop_assert!(extents <= 128 && pages + extents <= 192);
            if held.is_empty() {
                prop_assert_eq!(cache.pool.available(), 192 + 64 - pages - extents);
            }
        }
    }
}
