//! Niwaki host.
