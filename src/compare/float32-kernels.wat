;; The loops over single float32 weights that run a hundred million times; float32-kernels.ts says what they promise.
;; Addresses count bytes; counts are of elements, not zero and, but for multiply, a multiple of four.
(module
  ;; Σxy at address 0, Σx² at address 8, and arrays from a later one on.
  (import "loops" "memory" (memory 1))

  ;; Stores Σxy and Σx², each summed in float64 in four chains: elements 0, 4, 8, …, elements 1, 5, 9, …, and so on.
  ;; Returns 1, or 0 where some pair is zero on both sides.
  (func (export "sumProducts") (param $left i32) (param $right i32) (param $count i32) (result i32)
    (local $end i32) (local $areUsed v128)
    (local $x v128) (local $x01 v128) (local $x23 v128)
    (local $y v128) (local $y01 v128) (local $y23 v128)
    (local $products01 v128) (local $products23 v128)
    (local $squares01 v128) (local $squares23 v128)
    (local.set $areUsed (v128.const i64x2 -1 -1))
    (local.set $end (i32.add (local.get $left) (i32.shl (local.get $count) (i32.const 2))))
    (loop $next
      (local.set $x (v128.load (local.get $left)))
      (local.set $y (v128.load (local.get $right)))
      ;; The bits of both sides together are those of a zero where both are zeros.
      (local.set $areUsed (v128.and (local.get $areUsed)
        (f32x4.ne (v128.or (local.get $x) (local.get $y)) (v128.const f32x4 0 0 0 0))))
      (local.set $x01 (f64x2.promote_low_f32x4 (local.get $x)))
      (local.set $y01 (f64x2.promote_low_f32x4 (local.get $y)))
      (local.set $x23 (f64x2.promote_low_f32x4 (v128.load64_zero offset=8 (local.get $left))))
      (local.set $y23 (f64x2.promote_low_f32x4 (v128.load64_zero offset=8 (local.get $right))))
      (local.set $products01 (f64x2.add (local.get $products01) (f64x2.mul (local.get $x01) (local.get $y01))))
      (local.set $products23 (f64x2.add (local.get $products23) (f64x2.mul (local.get $x23) (local.get $y23))))
      (local.set $squares01 (f64x2.add (local.get $squares01) (f64x2.mul (local.get $x01) (local.get $x01))))
      (local.set $squares23 (f64x2.add (local.get $squares23) (f64x2.mul (local.get $x23) (local.get $x23))))
      (local.set $left (i32.add (local.get $left) (i32.const 16)))
      (local.set $right (i32.add (local.get $right) (i32.const 16)))
      (br_if $next (i32.lt_u (local.get $left) (local.get $end))))
    (local.set $products01 (f64x2.add (local.get $products01) (local.get $products23)))
    (local.set $squares01 (f64x2.add (local.get $squares01) (local.get $squares23)))
    (f64.store offset=0 (i32.const 0) (f64.add
      (f64x2.extract_lane 0 (local.get $products01)) (f64x2.extract_lane 1 (local.get $products01))))
    (f64.store offset=8 (i32.const 0) (f64.add
      (f64x2.extract_lane 0 (local.get $squares01)) (f64x2.extract_lane 1 (local.get $squares01))))
    (i32x4.all_true (local.get $areUsed)))

  ;; Returns 1 where |y − scale·x| − relative·|x| ≤ 0 for every pair, all in float32, else 0.
  (func (export "areMultiples")
    (param $left i32) (param $right i32) (param $count i32) (param $scale f32) (param $relative f32) (result i32)
    (local $end i32) (local $x v128) (local $scales v128) (local $relatives v128) (local $areWithin v128)
    (local.set $scales (f32x4.splat (local.get $scale)))
    (local.set $relatives (f32x4.splat (local.get $relative)))
    (local.set $areWithin (v128.const i64x2 -1 -1))
    (local.set $end (i32.add (local.get $left) (i32.shl (local.get $count) (i32.const 2))))
    (loop $next
      (local.set $x (v128.load (local.get $left)))
      (local.set $areWithin (v128.and (local.get $areWithin)
        (f32x4.le
          (f32x4.sub
            (f32x4.abs (f32x4.sub (v128.load (local.get $right)) (f32x4.mul (local.get $x) (local.get $scales))))
            (f32x4.mul (local.get $relatives) (f32x4.abs (local.get $x))))
          (v128.const f32x4 0 0 0 0))))
      (local.set $left (i32.add (local.get $left) (i32.const 16)))
      (local.set $right (i32.add (local.get $right) (i32.const 16)))
      (br_if $next (i32.lt_u (local.get $left) (local.get $end))))
    (i32x4.all_true (local.get $areWithin)))

  ;; Replaces every element by its product with the factor, computed in float64 and rounded once. Returns 1, or 0 where
  ;; some product is no finite number: minus itself, such a product is NaN, and every other one gives +0.
  (func (export "multiply") (param $at i32) (param $count i32) (param $factor f64) (result i32)
    (local $end i32) (local $endOfFours i32)
    (local $factors v128) (local $products v128) (local $zeros v128) (local $product f32)
    (local.set $factors (f64x2.splat (local.get $factor)))
    (local.set $end (i32.add (local.get $at) (i32.shl (local.get $count) (i32.const 2))))
    (local.set $endOfFours (i32.add (local.get $at)
      (i32.and (i32.shl (local.get $count) (i32.const 2)) (i32.const -16))))
    (block $noFours
      (br_if $noFours (i32.eq (local.get $at) (local.get $endOfFours)))
      (loop $next
        (local.set $products (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23
          (f32x4.demote_f64x2_zero
            (f64x2.mul (f64x2.promote_low_f32x4 (v128.load64_zero (local.get $at))) (local.get $factors)))
          (f32x4.demote_f64x2_zero
            (f64x2.mul (f64x2.promote_low_f32x4 (v128.load64_zero offset=8 (local.get $at))) (local.get $factors)))))
        (v128.store (local.get $at) (local.get $products))
        (local.set $zeros (v128.or (local.get $zeros) (f32x4.sub (local.get $products) (local.get $products))))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br_if $next (i32.lt_u (local.get $at) (local.get $endOfFours)))))
    (block $noRest
      (br_if $noRest (i32.eq (local.get $at) (local.get $end)))
      (loop $next
        (local.set $product
          (f32.demote_f64 (f64.mul (f64.promote_f32 (f32.load (local.get $at))) (local.get $factor))))
        (f32.store (local.get $at) (local.get $product))
        (local.set $zeros (v128.or (local.get $zeros)
          (f32x4.splat (f32.sub (local.get $product) (local.get $product)))))
        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (br_if $next (i32.lt_u (local.get $at) (local.get $end)))))
    (i32.eqz (v128.any_true (local.get $zeros)))))
