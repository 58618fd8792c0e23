//! The manifest log against a map of tables, reopened after every seal.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::testing;

const IDENTITY: Identity = testing::OWNER.identity;

fn table(address: u64, keys: u8) -> Rc<TableInfo> {
    let address = BlockAddress::new(address).unwrap();
    Rc::new(TableInfo {
        tree: TreeId(1),
        index: BlockReference { address, size: 1000, checksum: Checksum(address.get().into()) },
        key_min: vec![keys / 2; 1 + keys as usize % 90].into(),
        key_max: vec![keys / 2 + 1; 1 + keys as usize % 70].into(),
        version_min: 1,
        version_max: 9,
        op: 77,
        run: 77,
        entries: 5,
        tombstones: 2,
        value_bytes: 100,
        value_blocks: 3,
        overflow_blocks: 0,
        sample: Box::default(),
    })
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u8),
    Move(usize, u8),
    Remove(usize),
    /// A block of the log cannot be read any more.
    Rewrite(usize),
    Seal,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<u8>().prop_map(Step::Insert),
        2 => (any::<usize>(), 0u8..4).prop_map(|(at, level)| Step::Move(at, level)),
        5 => any::<usize>().prop_map(Step::Remove),
        1 => any::<usize>().prop_map(Step::Rewrite),
        2 => Just(Step::Seal),
    ]
}

type Model = BTreeMap<BlockAddress, (Level, Rc<TableInfo>)>;

fn live(log: &ManifestLog) -> Model {
    log.tables().map(|(level, table)| (table.index.address, (level, table.clone()))).collect()
}

/// Applies steps; every seal is followed by an open of what was written, which replaces the log.
async fn replay(steps: Vec<Step>) {
    let grid = testing::grid(&Config::test_min()).await;
    let mut log = ManifestLog::new(grid.config());
    let mut model = Model::new();
    let mut address_next = 10_000;
    let mut corrupt: Option<BlockReference> = None;
    for step in steps.iter().chain([&Step::Seal]) {
        let pick = |at: usize| model.values().nth(at % model.len().max(1)).cloned();
        match *step {
            Step::Insert(keys) => {
                let table = table(address_next, keys);
                address_next += 1;
                log.insert(Level(0), table.clone());
                model.insert(table.index.address, (Level(0), table));
            }
            Step::Move(at, level) => {
                let Some((_, table)) = pick(at) else { continue };
                let run = table.run + u64::from(level);
                let table = Rc::new(TableInfo { run, ..(*table).clone() });
                log.insert(Level(level), table.clone());
                model.insert(table.index.address, (Level(level), table));
            }
            Step::Remove(at) => {
                let Some((_, table)) = pick(at) else { continue };
                log.remove(&table);
                model.remove(&table.index.address);
            }
            Step::Rewrite(at) => {
                corrupt = log.blocks().nth(at % log.block_count().max(1));
                corrupt.iter().for_each(|block| log.rewrite(block.address));
            }
            Step::Seal => {
                let mut reservation = grid.reserve(log.blocks_needed() as u64).unwrap();
                let sealed = log.seal(IDENTITY, 5, || grid.acquire(&mut reservation));
                assert_eq!(reservation.remaining(), 0, "as many blocks as announced");
                for image in sealed.images {
                    grid.write_block(image).await;
                }
                assert!(log.blocks().all(|block| Some(block) != corrupt), "it was written anew");
                for address in sealed.released {
                    grid.release(address);
                }
                let bytes = sealed.root.to_bytes();
                let root = ManifestRoot::from_bytes(&bytes);
                assert_eq!(root, sealed.root);
                let opened = ManifestLog::open(&grid, &root).await.unwrap();
                assert!(opened.blocks().eq(log.blocks()));
                log = opened;
            }
        }
        assert_eq!(live(&log), model);
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(24))]

    #[test]
    fn what_is_opened_is_what_was_sealed(steps in vec(step(), 1..150)) {
        testing::run(move || replay(steps));
    }

    #[test]
    fn mutated_blocks_never_panic(
        tables in vec(any::<u8>(), 1..6),
        flips in vec((any::<usize>(), any::<u8>()), 1..6),
        counts in any::<Option<[u8; 2]>>(),
    ) {
        let records: Vec<Record> = tables
            .iter()
            .map(|&keys| {
                let table = table(u64::from(keys) + 1, keys);
                Record::Insert { level: Level(0), table }
            })
            .chain([Record::Remove { tree: TreeId(1), address: BlockAddress::new(7).unwrap() }])
            .filter(|record| record.stored_len() > 0)
            .collect();
        let address = BlockAddress::new(3).unwrap();
        let before = [BlockReference { address, size: 4096, checksum: Checksum(1) }];
        let config = Config::test_min();
        let image = encode_block(&config, IDENTITY, 1, address, &before, &records);
        let mut bytes = image.bytes[..image.reference.size as usize].to_vec();
        for (at, byte) in flips {
            let at = HEADER_SIZE + at % (bytes.len() - HEADER_SIZE);
            bytes[at] = byte;
        }
        let mut metadata = [0; METADATA_SIZE];
        let [predecessor_count, record_count] = counts.unwrap_or([1, records.len() as u8]);
        metadata[0] = predecessor_count;
        metadata[4] = record_count;
        let (block_type, tree) = (BlockType::Manifest, TreeId(0));
        let seal = Seal { identity: IDENTITY, address, block_type, tree, op: 1, metadata };
        let mut buffer = Buffer::zeroed(bytes.len());
        buffer.copy_from_slice(&bytes);
        let reference = block::seal(&mut buffer, &seal);
        let block = Block::verify(buffer.freeze(), IDENTITY, &reference, block_type).unwrap();
        let _ = super::records(&block);
        let _ = predecessors(&block);
    }
}

/// The bound of the module's proof, with changes chosen to be the worst for it: the oldest tables
/// live on while the new ones come and go.
#[test]
fn the_log_stays_within_its_bound() {
    let config = Config::test_min();
    let mut log = ManifestLog::new(&config);
    let mut addresses = (1u64..).map(|address| BlockAddress::new(address).unwrap());
    let record_len_max = Record::Insert { level: Level(0), table: table(1, 89) }.stored_len();
    let per_block = block_capacity(&config) / record_len_max;
    let lasting = 60;
    for i in 0..lasting {
        log.insert(Level(0), table(100_000 + i, 89));
    }
    let mut fresh_max = 0;
    for round in 0..2000u64 {
        let coming = (round % 7) + 1;
        let tables: Vec<_> = (0..coming).map(|i| table(200_000 + round * 10 + i, 89)).collect();
        for table in &tables {
            log.insert(Level(0), table.clone());
        }
        fresh_max = fresh_max.max(pack(&log.plan().records, block_capacity(&config)).len());
        log.seal(IDENTITY, round, || addresses.next().unwrap());
        for table in &tables {
            log.remove(table);
        }
        let live_blocks = (lasting as usize + 7).div_ceil(per_block);
        let bound = 4 * live_blocks + 6 * fresh_max;
        assert!(log.block_count() <= bound, "{} blocks, bound {bound}", log.block_count());
    }
    assert!(log.block_count() <= 3 * (lasting as usize).div_ceil(per_block) + 12);
}

#[test]
fn golden_bytes() {
    let mut log = ManifestLog::new(&Config::test_min());
    log.insert(Level(2), table(5, 3));
    log.insert(Level(1), table(9, 100));
    let first = log.seal(IDENTITY, 40, || BlockAddress::new(1).unwrap());
    log.remove(&table(5, 3));
    let second = log.seal(IDENTITY, 41, || BlockAddress::new(2).unwrap());
    let checksums = [&first, &second].map(|sealed| sealed.images[0].reference.checksum.to_string());
    assert_eq!(checksums, ["43d51d151ed89a7bec4481a9eb9eb206", "07b89a9d0a06ccead37638b08449db27"]);
}
