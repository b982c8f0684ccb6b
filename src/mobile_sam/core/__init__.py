"""What every part stands on, without PyTorch: errors, geometry, masks, pictures in and out, drawing."""
