//! What replicas, nodes and clients share: headers, operations, results, errors, checksums.
