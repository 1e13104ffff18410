# Whether to install programs that not every distribution has.
export IPA_SNAPSHOT_TOOLS=${IPA_SNAPSHOT_TOOLS:-1}
