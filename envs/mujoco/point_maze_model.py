"""The MuJoCo model of PointMaze, as MJCF text."""

from __future__ import annotations

from envs.mujoco.mazes import max_walls
from envs.mujoco.renderer import camera_xml

RADIUS = 0.2  # of the ball [cells]
TIMESTEP, NUM_SUBSTEPS = 0.01, 5  # [s]
SPEED = 4.0  # at full action, once it is reached [cells/s]
KV = 10.0  # of the velocity actuators [kg/s]
DAMPING = {"velocity": 0.0, "force": 2.0}  # of the slides [kg/s]
GAIN = {
    "velocity": KV * SPEED,
    "force": DAMPING["force"] * SPEED,
}  # force of a full action at rest [kg cells/s^2]
PARKED = 100.0  # where walls that a maze does not need stand [cells]


def model_xml(size: int, actuation: str, half_width: float) -> str:
    """Return the model of mazes of ``size`` x ``size`` cells.

    Every maze has the same geoms: a border, and as many unit boxes as a maze has walls at most, whose places differ
    between worlds. Midphase is off, since its bounding volumes know only the places of compilation. The contact of a
    sphere has no friction.
    """
    half, edge = size / 2, size / 2 + 0.5
    long = half + 1.0
    border = ((0, -edge, long, 0.5), (0, edge, long, 0.5), (-edge, 0, 0.5, half), (edge, 0, 0.5, half))
    boxes = "".join(
        f'<geom name="border{side}" class="wall" pos="{x} {y} 0" size="{a} {b} .5"/>'
        for side, (x, y, a, b) in enumerate(border)
    ) + "".join(
        f'<geom name="wall{number}" class="wall" pos="{PARKED + number} 0 0" size=".5 .5 .5"/>'
        for number in range(max_walls(size))
    )
    bias = -KV if actuation == "velocity" else 0.0
    actuators = "".join(
        f'<general name="{axis}" joint="{axis}" ctrlrange="-1 1" biastype="affine" '
        f'gainprm="{GAIN[actuation]}" biasprm="0 0 {bias}"/>'
        for axis in ("x", "y")
    )
    slides = "".join(
        f'<joint name="{axis}" type="slide" axis="{direction}" damping="{DAMPING[actuation]}"/>'
        for axis, direction in (("x", "1 0 0"), ("y", "0 1 0"))
    )
    return f"""<mujoco model="point maze">
<option timestep="{TIMESTEP}" integrator="implicitfast" jacobian="dense" gravity="0 0 0">
<flag midphase="disable"/></option>
<visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
<default><geom condim="1"/><default class="wall"><geom type="box"/></default></default>
<worldbody>
{camera_xml(half_width)}
<geom name="background" type="box" pos="0 0 5" size="{4 * long} {4 * long} .1" contype="0" conaffinity="0"/>
{boxes}
<body name="ball">{slides}<geom name="ball" type="sphere" size="{RADIUS}" mass="1"/></body>
</worldbody>
<actuator>{actuators}</actuator>
</mujoco>"""
