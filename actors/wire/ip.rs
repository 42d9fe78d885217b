//! Views of IP packets and their checksums.
