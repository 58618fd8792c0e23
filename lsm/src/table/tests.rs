//! Tables built and read back against a sorted list.

use ioring::Buffer;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::block::{Block, BlockAddress, BlockType, Checksum, HEADER_SIZE, Identity};
use crate::config::{Compression, Config, LEVELS_MAX};
use crate::entry::{EntryRef, Level, Payload, Position};
use crate::filter;
use crate::index::Index;
use crate::inspect::{self, Contents};
use crate::page::{self, Page};

const IDENTITY: Identity = Identity { cluster: 5, shard: 1 };

type Model = Vec<(Vec<u8>, u64, Option<Vec<u8>>)>;

/// A finished table: its value blocks and its index block.
struct Built {
    values: Vec<BlockImage>,
    index: BlockImage,
    info: TableInfo,
}

impl Built {
    fn index_block(&self) -> Block {
        let BlockImage { reference, bytes } = &self.index;
        Block::verify(bytes.clone(), IDENTITY, reference, BlockType::Index).unwrap()
    }

    fn value_block(&self, address: BlockAddress) -> Block {
        let image = self.values.iter().find(|image| image.reference.address == address).unwrap();
        let bytes = image.bytes.clone();
        Block::verify(bytes, IDENTITY, &image.reference, BlockType::Value).unwrap()
    }

    /// What a point read does.
    fn get(&self, config: &Config, key: &[u8], version_max: u64) -> Option<(u64, Option<Vec<u8>>)> {
        let block = self.index_block();
        let index = Index::verify(block.bytes()).unwrap();
        let found = index.find(key, filter::hash(key), version_max)?;
        let block = self.value_block(found.block.address);
        let bytes = &block.bytes()[found.offset as usize..];
        let stored = page::verify_stored(bytes).unwrap();
        assert_eq!(stored.checksum, found.checksum);
        assert_eq!(stored.raw_len, found.raw_len as usize);
        assert!(stored.raw_len <= config.block_size as usize);
        let mut raw = vec![0; stored.raw_len];
        page::unpack(bytes, &stored, &mut raw).unwrap();
        let entry = Page::parse(&raw).unwrap().seek(key, version_max).unwrap()?;
        Some((entry.version, value_of(&entry)))
    }
}

fn value_of(entry: &EntryRef<'_>) -> Option<Vec<u8>> {
    match entry.payload {
        Payload::Inline(value) => Some(value.to_vec()),
        _ => None,
    }
}

fn build(config: &Config, level: Level, model: &Model) -> Vec<Built> {
    let mut tables = Vec::new();
    let mut addresses = (1u64..).map(|address| BlockAddress::new(address).unwrap());
    let mut address = || addresses.next().unwrap();
    let buffer = || Buffer::zeroed(config.block_size as usize);
    let new = || Builder::new(config, IDENTITY, TreeId(3), level, 77);
    let mut builder = new();
    let mut values = Vec::new();
    let mut at = 0;
    while at < model.len() {
        let (key, version, value) = &model[at];
        let payload = value.as_ref().map_or(Payload::Tombstone, |value| Payload::Inline(value));
        match builder.push(&EntryRef { key, version: *version, deadline: 0, payload }) {
            Push::Accepted => at += 1,
            Push::NeedsBlock => builder.open_block(buffer(), address()),
            Push::BlockFull => values.extend(builder.close_block()),
            Push::TableFull => {
                values.extend(builder.close_block());
                let (index, info) =
                    std::mem::replace(&mut builder, new()).finish(buffer(), address());
                tables.push(Built { values: std::mem::take(&mut values), index, info });
            }
        }
    }
    values.extend(builder.close_block());
    let (index, info) = builder.finish(buffer(), address());
    tables.push(Built { values, index, info });
    tables
}

fn walk(built: &Built) -> Model {
    let mut model = Model::new();
    let block = built.index_block();
    let index = Index::verify(block.bytes()).unwrap();
    let mut cursor: Option<BlockCursor> = None;
    for number in 0..index.block_count() {
        let value_block = index.block(number);
        let block = built.value_block(value_block.reference.address);
        assert_eq!(pages(&block).unwrap().len(), value_block.pages.len());
        match &mut cursor {
            Some(cursor) => cursor.reset(block).unwrap(),
            None => cursor = Some(BlockCursor::new(block).unwrap()),
        }
        let cursor = cursor.as_mut().unwrap();
        let mut entries = 0;
        while cursor.next().unwrap() {
            let entry = cursor.entry();
            model.push((entry.key.to_vec(), entry.version, value_of(&entry)));
            entries += 1;
        }
        assert_eq!(entries, value_block.entries);
    }
    model
}

/// Few distinct keys with many versions, so that versions cross pages and blocks.
fn model(keys: usize) -> impl Strategy<Value = Model> {
    let key = (vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'c')], 1..7), any::<bool>()).prop_map(
        |(tail, long)| [&b"common"[..], if long { &[b'x'; 40] } else { b"" }, &tail].concat(),
    );
    let value = prop_oneof![
        1 => Just(None),
        4 => vec(any::<u8>(), 0..60).prop_map(Some),
        2 => (100usize..1000).prop_map(|len| Some(vec![3; len])),
    ];
    btree_map((key, (0u64..40).prop_map(std::cmp::Reverse)), value, 1..keys)
        .prop_map(|map| map.into_iter().map(|((key, v), value)| (key, v.0, value)).collect())
}

proptest! {
    #![proptest_config(crate::testing::cases(96))]

    #[test]
    fn a_table_gives_back_its_entries(model in model(300), level in 0u8..4) {
        let config = Config::test_min();
        let tables = build(&config, Level(level), &model);
        let walked: Model = tables.iter().flat_map(walk).collect();
        prop_assert_eq!(&walked, &model);
        for built in &tables {
            let block = built.index_block();
            let index = Index::verify(block.bytes()).unwrap();
            prop_assert_eq!(&index.info(block.header()), &built.info);
            prop_assert!(built.values.len() <= config.table_value_blocks_max as usize);
        }
        let total: u64 = tables.iter().map(|built| built.info.entries).sum();
        prop_assert_eq!(total, model.len() as u64);
    }

    #[test]
    fn point_reads_are_like_a_sorted_vector(
        model in model(200), level in 0u8..4, other in vec(Just(b'b'), 0..4),
    ) {
        let config = Config::test_min();
        let tables = build(&config, Level(level), &model);
        let other = [&b"common"[..], &other].concat();
        let mut keys: Vec<&[u8]> = model.iter().map(|(key, ..)| &key[..]).collect();
        keys.extend([&other[..], b"", b"z", b"commona"]);
        keys.dedup();
        for key in keys {
            for version_max in [0, 7, 20, 39, u64::MAX] {
                let expected = model.iter().find(|(k, v, _)| k == key && *v <= version_max);
                let expected = expected.map(|(_, version, value)| (*version, value.clone()));
                let found = tables.iter().find_map(|built| built.get(&config, key, version_max));
                prop_assert_eq!(found, expected);
            }
        }
    }

    /// The page in which a range walk starts: everything before it is before the position.
    #[test]
    fn walks_begin_in_the_right_page(
        model in model(200),
        key in vec(prop_oneof![Just(b'a'), Just(b'c')], 0..5),
        version in 0u64..40,
    ) {
        let tables = build(&Config::test_min(), Level(0), &model);
        for key in [[&b"common"[..], &key].concat(), key] {
            let target = Position { key: &key, version };
            for built in &tables {
                let block = built.index_block();
                let index = Index::verify(block.bytes()).unwrap();
                let page = index.page_of(&target);
                prop_assert!(page == 0 || index.page_separator(page) <= target);
                let next = page + 1;
                prop_assert!(next == index.page_count() || index.page_separator(next) > target);
                prop_assert!(index.block(index.block_of_page(page)).pages.contains(&page));
            }
        }
    }

    #[test]
    fn mutated_index_blocks_never_panic(
        model in model(60), flips in vec((any::<usize>(), any::<u8>()), 1..6),
    ) {
        let built = &build(&Config::test_min(), Level(0), &model)[0];
        let mut bytes = built.index.bytes[..built.index.reference.size as usize].to_vec();
        for (at, byte) in flips {
            let at = 192 + at % (bytes.len() - 192);
            bytes[at] = byte;
        }
        if let Ok(index) = Index::verify(&bytes) {
            for (key, version, _) in &model {
                let _ = index.find(key, filter::hash(key), *version);
                let _ = index.page(index.page_of(&Position { key, version: *version }));
            }
        }
    }

    /// Value blocks with intact checksums and nonsense inside, as a faulty release might write.
    #[test]
    fn mutated_value_blocks_never_panic(
        model in model(60), level in 0u8..4, flips in vec((any::<usize>(), any::<u8>()), 1..6),
    ) {
        let built = &build(&Config::test_min(), Level(level), &model)[0];
        let image = &built.values[0];
        let header = built.value_block(image.reference.address).header().to_owned();
        let mut bytes = Buffer::zeroed(image.reference.size as usize);
        bytes.copy_from_slice(&image.bytes[..image.reference.size as usize]);
        let mut metadata = header.metadata;
        for (at, byte) in flips {
            let at = HEADER_SIZE - 8 + at % (bytes.len() - HEADER_SIZE + 8);
            match at.checked_sub(HEADER_SIZE) {
                Some(_) => bytes[at] = byte,
                None => metadata[at - (HEADER_SIZE - 8)] = byte,
            }
        }
        let seal = crate::block::Seal {
            identity: IDENTITY,
            address: header.address,
            block_type: BlockType::Value,
            tree: TreeId(3),
            op: 77,
            metadata,
        };
        let reference = crate::block::seal(&mut bytes, &seal);
        let block = Block::verify(bytes.freeze(), IDENTITY, &reference, BlockType::Value).unwrap();
        let _ = pages(&block).map(Iterator::count);
        let _ = inspect::block(&block);
        let _ = inspect::check_value_block(&block);
        if let Ok(mut cursor) = BlockCursor::new(block) {
            let mut steps = 0;
            while let Ok(true) = cursor.next() {
                let _ = cursor.entry();
                steps += 1;
                assert!(steps < 10_000);
            }
        }
    }
}

/// Tiny values fill the index block before the value blocks: the table ends all the same.
#[test]
fn a_table_ends_when_its_index_is_full() {
    let config = Config { table_value_blocks_max: 1000, ..Config::test_min() };
    let model: Model =
        (0..3000u32).map(|i| (i.to_be_bytes().to_vec(), 1, Some(Vec::new()))).collect();
    let tables = build(&config, Level(0), &model);
    assert!(tables.len() > 1);
    for built in &tables[..tables.len() - 1] {
        let size = built.index.reference.size;
        assert!(size > config.block_size / 2, "index block of {size} bytes");
    }
    assert_eq!(tables.iter().flat_map(walk).collect::<Model>(), model);
}

#[test]
fn pages_of_small_entries_take_one_slot() {
    let config = Config { table_value_blocks_max: 100, ..Config::standard() };
    let model: Model = (0..20_000u64)
        .map(|i| (format!("user{i:012}").into_bytes(), i + 1, Some(vec![7; 100])))
        .collect();
    let tables = build(&config, Level(0), &model);
    let block = tables[0].index_block();
    let index = Index::verify(block.bytes()).unwrap();
    let slot = config.page_size;
    for page in 0..index.page_count() {
        let page = index.page(page);
        let last = page.offset + page.stored_len - 1;
        assert_eq!(page.offset / slot, last / slot, "{page:?} takes two slots");
    }
    let stored: u64 =
        tables.iter().flat_map(|built| &built.values).map(|v| u64::from(v.reference.size)).sum();
    assert!(stored * 100 < model.len() as u64 * 116 * 108, "{stored} bytes stored");
}

/// Packed pages leave little of a slot empty, and are found where the index says.
#[test]
fn packed_pages_stand_close() {
    let value = |i: u64| format!("{:x} and the same in every record of all", i * 7_919_777);
    let model: Model = (0..10_000u64)
        .map(|i| (format!("user:{i:08}").into_bytes(), 7, Some(value(i).repeat(2).into_bytes())))
        .collect();
    let used = |compression| {
        let config = Config { compression: [compression; LEVELS_MAX], ..Config::standard() };
        let tables = build(&config, Level(6), &model);
        let (mut used, mut pages) = (0, 0);
        for built in &tables {
            used += built.values.iter().map(|v| u64::from(v.reference.size)).sum::<u64>();
            let block = built.index_block();
            let index = Index::verify(block.bytes()).unwrap();
            pages += (0..index.page_count())
                .map(|number| u64::from(index.page(number).stored_len))
                .sum::<u64>();
        }
        (used, pages)
    };
    let (plain, _) = used(Compression::None);
    for compression in [Compression::Lz4, Compression::Zstd] {
        let (used, pages) = used(compression);
        assert!(used * 2 < plain, "{compression:?}: {used} of {plain} bytes");
        assert!(pages * 100 > used * 85, "{compression:?}: {pages} bytes of pages in {used}");
    }
}

/// What inspection says of a table's blocks agrees with what was put into them.
#[test]
fn inspection_shows_what_was_built() {
    let model: Model = (0..200u64)
        .map(|i| (format!("key{i:04}").into_bytes(), 9, (i % 3 > 0).then(|| vec![1; 30])))
        .collect();
    let mut shown = Model::new();
    for level in [Level(0), Level(2)] {
        shown.clear();
        for built in build(&Config::test_min(), level, &model) {
            let view = inspect::block(&built.index_block()).unwrap();
            let Contents::Index { table, blocks, .. } = view.contents else { panic!("{view:?}") };
            assert_eq!(table, built.info);
            for reference in blocks {
                let block = built.value_block(reference.address);
                let view = inspect::block(&block).unwrap();
                let Contents::Value { level: stored, pages } = view.contents else { panic!() };
                assert_eq!(stored, level);
                assert!(pages.iter().all(|page| page.checksum_matches));
                let entries: usize = pages.iter().map(|page| page.entries).sum();
                assert_eq!(inspect::check_value_block(&block).unwrap(), entries as u64);
                let take = |entry: inspect::EntryView| {
                    let value = match entry.value {
                        inspect::ValueView::Inline(value) => Some(value),
                        _ => None,
                    };
                    shown.push((entry.key, entry.version, value));
                    true
                };
                inspect::entries(&block, take).unwrap();
            }
        }
        assert_eq!(shown, model);
    }
}

/// What stands on disk may not change unnoticed.
#[test]
fn golden_bytes() {
    let model: Model = (0..200u64)
        .map(|i| {
            let value = (i % 5 > 0).then(|| vec![i as u8; (i % 50) as usize]);
            (format!("key{:04}", i / 2).into_bytes(), 1000 - i, value)
        })
        .collect();
    let checksums = |compression| -> Vec<String> {
        let config = Config { compression: [compression; LEVELS_MAX], ..Config::test_min() };
        let tables = build(&config, Level(0), &model);
        let images = tables.iter().flat_map(|built| built.values.iter().chain([&built.index]));
        images.map(|image| Checksum::of(&image.bytes).to_string()).collect()
    };
    let golden = [
        "a2fe4e6d7214b5093df0b215fe48f11f",
        "d585593b0dca9a98e01a98a5e3829b18",
        "936244f0d7a0853237bebc95dfa2344f",
        "fc0090d50787dad35911c755a93ccced",
        "e2868850a9663d0d2c5c311bcaa04ac3",
    ];
    assert_eq!(checksums(Compression::None), golden);
    let golden_lz4 = ["b1458788ae4612fc9c28ae5b786b07f4", "3e5a9eadc8b08e72c49f8b85499a1c52"];
    let golden_zstd = ["10ac222e904435f2436d6d2f10d44d6b", "b45f0a86269a98886adee24d63043680"];
    let packed = [checksums(Compression::Lz4), checksums(Compression::Zstd)];
    assert_eq!(packed, [&golden_lz4[..], &golden_zstd]);
}
