"""Mathematics over tokens: processes, schedules, samplers; torch only."""
