"""What results say: compared, over time, as a page, as tables."""
