"""What `fm paper --beyond --scale mini` found."""
