"""Wire protocols of robot clients."""
