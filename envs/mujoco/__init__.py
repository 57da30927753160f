"""MuJoCo tasks: physics of many worlds in one call, frames drawn by a batched rasteriser or by MuJoCo itself."""
