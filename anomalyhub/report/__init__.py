"""What people look at and take away: overlays, plots, tables, COCO files. Import the modules directly."""
