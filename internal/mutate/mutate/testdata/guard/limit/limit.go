// Package limit counts bags.
package limit

import "errors"

// Check refuses more than two bags, and fewer than none.
func Check(bags int) error {
	if bags > 2 { // check:bags
		return errors.New("too many bags")
	}
	if bags < 0 { // check:shared
		return errors.New("fewer than no bags")
	}
	return nil
}
