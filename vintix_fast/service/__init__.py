"""What any program needs: errors, files, progress, interrupts, memory.  Knows nothing about robots or models."""
