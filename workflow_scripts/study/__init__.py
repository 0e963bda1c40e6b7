"""What may be asked: the schema of a study, one file per section, and how a study is read, checked and documented."""
