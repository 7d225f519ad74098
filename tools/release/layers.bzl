"""What each package's wheel may lean on, and what it must do without. `packages/BUILD` holds the same layers for BUILD files."""

# The packages whose wheels may be installed beside a package's own.
BELOW = {
    "inference": ["lazy_config", "modules", "ops", "parallel"],
    "lazy_config": [],
    "modules": ["lazy_config", "ops"],
    "ops": [],
    "parallel": ["lazy_config", "modules", "ops"],
    "recipes": ["inference", "lazy_config", "modules", "ops", "parallel"],
    "server": ["inference", "lazy_config", "modules", "ops", "parallel"],
    "subquad": ["inference", "lazy_config", "modules", "ops", "parallel", "recipes", "server"],
}

# Distributions of the hub that a package's wheel, without extras, must not lead to.
ABSENT = {
    "inference": ["grpcio", "lightning", "megatron-core"],
    "lazy_config": ["torch"],
    "modules": ["grpcio", "lightning", "megatron-core"],
    "ops": ["grpcio", "lightning", "megatron-core"],
    "parallel": ["grpcio", "lightning", "megatron-core"],
    "recipes": ["grpcio"],
    "server": ["lightning", "megatron-core", "torch"],
    "subquad": [],
}
