"""The mixers: one file each, all behind the contract of ``subquad.modules.mixer``."""
