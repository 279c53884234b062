//! From YAML to checked objects.
