//! The storage engine of a shard: grid, tables, trees, forest, compaction beats.
