"""A package, so that no other one of this name (gmqtt installs its own) is taken for it."""
