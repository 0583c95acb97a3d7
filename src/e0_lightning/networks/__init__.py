"""Networks that know no noise: vision, language, prefix, action expert."""
